// Building a QuantizedWeight out of rows of others: what slicing, padding and quantising in parts
// need.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/quant/weight.h"

namespace intermix {

// A zero weight [n, k] that owns its memory. `codes_dtype` matters for Scheme::kNone only.
QuantizedWeight AllocateWeight(const WeightFormat& format, int64_t n, int64_t k, DType codes_dtype);

// The rows of `parts`, one below the other, with zero rows after them up to `n` in all. The parts
// share format and k; there is at least one. The result owns its memory.
QuantizedWeight StackRows(const std::vector<QuantizedWeight>& parts, int64_t n);

}  // namespace intermix
