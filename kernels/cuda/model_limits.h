// What a model may be for the CUDA kernels, so that one which is not is refused when it is loaded
// and not in its first step. No CUDA header is needed; part of every build. Thread-safe.
#pragma once

#include <cstdint>

#include "absl/status/status.h"

namespace intermix::cuda {

inline constexpr int64_t kMaxHeadDim = 256;
inline constexpr int64_t kMaxHeads = 256;  // query heads of one rank
inline constexpr int64_t kMaxExperts = 512;
inline constexpr int64_t kMaxNormWidth = 16384;  // a block keeps its row in registers

struct ModelShape {
  int64_t hidden_size = 0;
  int64_t num_heads = 0;  // of this rank
  int64_t head_dim = 0;
  int64_t num_experts = 0;
  bool int8_cache = false;
};

// INVALID_ARGUMENT: names the number that is beyond a limit, and the limit.
absl::Status CheckModelShape(const ModelShape& shape);

}  // namespace intermix::cuda
