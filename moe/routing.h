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

// The slots (token, k) of some experts as rows, ordered by expert, then token; on the device.
// No slot is ever dropped. See Backend::SortByExpert.
struct ExpertOrder {
  Tensor token_of_row;  // [slots] int32
  Tensor row_of_slot;   // [slots] int32, -1 for other ranks' experts
  Tensor row_offsets;   // [experts + 1] int32
};

ExpertOrder SortByExpert(const Execution& exec, const Tensor& experts, int64_t first_expert,
                         int64_t num_experts);

// rows[index[i]] for every i, values and scales.
Activations GatherActivations(const Execution& exec, const Activations& rows, const Tensor& index);

}  // namespace intermix
