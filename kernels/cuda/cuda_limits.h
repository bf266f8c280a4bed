// The limits of one NVIDIA GPU (kernels/limits.h): a copy of more memory than any cache holds, and
// what cuBLASLt makes of large square matrices of random numbers.
// No CUDA header is needed here, and none is included: without the toolkit a stub is linked.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/limits.h"

namespace intermix {

struct CudaLimitOptions {
  int device = 0;    // which of the host's GPUs
  int64_t side = 0;  // of the matrices, a multiple of 16; 0: as large as the GPU, 8192 on an H200
};

// On a stream of their own. They hold their memory while they live: 5 GB on an H200.
//   memory  a copy of 32 * side * side bytes on the device: bytes read and bytes written
//   int8    int8 by int8 to int32
//   float   bfloat16 by bfloat16 to bfloat16, float32 sums
// Without cuBLASLt: memory alone. Fails as MakeCudaBackend does.
absl::StatusOr<std::vector<Limit>> CudaLimits(const CudaLimitOptions& options);

}  // namespace intermix
