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
};

// Every (token, slot) as one row, ordered by expert, then token. No token is ever dropped.
struct ExpertOrder {
  std::vector<int32_t> token_of_row;  // [tokens * top_k]
  std::vector<int32_t> row_of_slot;   // [tokens * top_k]: row of (token, slot)
  std::vector<int32_t> offsets;       // [num_experts + 1]: rows of each expert
};

ExpertOrder SortByExpert(const Routing& routing, int num_experts);

// rows[index[i]] for every i, values and scales.
Activations GatherActivations(const Execution& exec, const Activations& rows, const Tensor& index);

// A host vector as an int32 tensor in the workspace.
Tensor ToTensor(const Execution& exec, const std::vector<int32_t>& values);

// The same as [values.size() / cols, cols].
Tensor ToTensor(const Execution& exec, const std::vector<int32_t>& values, int64_t cols);

}  // namespace intermix
