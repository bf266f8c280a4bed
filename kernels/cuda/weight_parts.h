// Weights that are stacked along N, put together in host memory before they are packed.
// Pure functions; any thread.
#pragma once

#include <span>
#include <vector>

#include "absl/status/status.h"
#include "kernels/core/dtype.h"
#include "kernels/quant/weight.h"

namespace intermix::cuda {

// INVALID_ARGUMENT where these cannot be stacked: none at all, other in-features, or some that are
// quantised beside some that are not.
absl::Status CheckParts(std::span<const QuantizedWeight> parts);

// Parts of one format as one weight, so that one launch computes them all.
QuantizedWeight JoinParts(std::span<const QuantizedWeight> parts);

// Parts that are not quantised as bfloat16, [sum of n, k].
std::vector<BFloat16> RoundParts(std::span<const QuantizedWeight> parts);

}  // namespace intermix::cuda
