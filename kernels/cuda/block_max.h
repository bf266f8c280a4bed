// The maximum over a block. Device code.
#pragma once

#include "kernels/cuda/device_math.h"

namespace intermix::cuda {

// The largest value of the block, on every thread. `scratch` holds one int32 for each warp.
__device__ inline int32_t block_max(int32_t value, int32_t* scratch) {
#pragma unroll
  for (int mask = kWarp / 2; mask > 0; mask /= 2) {
    const int32_t other = shfl_xor_s32(value, mask);
    value = other > value ? other : value;
  }
  if (threadIdx.x % kWarp == 0) scratch[threadIdx.x / kWarp] = value;
  sync_block();
  for (unsigned w = 0; w < blockDim.x / kWarp; ++w) {
    value = scratch[w] > value ? scratch[w] : value;
  }
  return value;
}

}  // namespace intermix::cuda
