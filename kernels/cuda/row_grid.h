// The grid of kernels that work on rows piece by piece: threadIdx.x and blockIdx.y walk the pieces
// of a row, threadIdx.y and blockIdx.x the rows. Short rows share a block.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/core/tensor.h"
#include "kernels/cuda/launch.h"

namespace intermix::cuda {

inline constexpr int kRowThreads = 256;

// One thread for each of `units` pieces of each of `rows` rows, of a kernel that starts early.
inline LaunchShape RowGrid(int64_t rows, int64_t units, cudaStream_t stream) {
  unsigned across = 1;
  while (across < kRowThreads && across < units) across *= 2;
  const unsigned down = kRowThreads / across;
  return {.grid = dim3(static_cast<unsigned>((rows + down - 1) / down),
                       static_cast<unsigned>((units + across - 1) / across)),
          .block = dim3(across, down),
          .stream = stream,
          .early = true};
}

__device__ inline int64_t grid_row() {
  return static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;
}
__device__ inline int64_t grid_unit() {
  return static_cast<int64_t>(blockIdx.y) * blockDim.x + threadIdx.x;
}

// Threads of a block that has one row of `units` pieces to itself: whole warps, at most `most`.
inline unsigned RowBlock(int64_t units, int64_t most) {
  return static_cast<unsigned>(std::clamp<int64_t>((units + 31) / 32 * 32, 32, most));
}

// Whether the tensor and every row of it (along all dimensions but the last) start at a multiple of
// `bytes`. An empty tensor does.
inline bool RowsAligned(const Tensor& tensor, int64_t bytes) {
  if (tensor.empty()) return true;
  if (reinterpret_cast<uintptr_t>(tensor.raw()) % static_cast<uintptr_t>(bytes) != 0) return false;
  for (int d = 0; d + 1 < tensor.rank(); ++d) {
    const int64_t stride = tensor.stride(d) * static_cast<int64_t>(ByteSize(tensor.dtype()));
    if (tensor.shape(d) > 1 && stride % bytes != 0) return false;
  }
  return true;
}

}  // namespace intermix::cuda
