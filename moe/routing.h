// Routing: the router's choice for each token, and its inverse, the rows sorted by expert.
#pragma once

#include <cstdint>
#include <vector>

#include "comm/execution.h"
#include "kernels/core/tensor.h"

namespace intermix {

struct Routing {
  Tensor experts;  // [tokens, top_k] int32
  Tensor weights;  // [tokens, top_k] float32

  int64_t tokens() const { return experts.rows(); }
  int64_t top_k() const { return experts.cols(); }
  int64_t slots() const { return tokens() * top_k(); }
};

// The order alone; see Backend::SortByExpert.
ExpertOrder SortByExpert(const Execution& exec, const Tensor& experts, int64_t first_expert,
                         int64_t num_experts);

// The order and the rows.
//   totals  [num_experts] int32, added to
ExpertOrder GroupByExpert(const Execution& exec, const Activations& tokens, const Tensor& experts,
                          int64_t first_expert, const Tensor& totals);

// rows[index[i]] for every i, values and scales.
Activations GatherActivations(const Execution& exec, const Activations& rows, const Tensor& index);

}  // namespace intermix
