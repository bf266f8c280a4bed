// Values that are not finite, in chunks of which some rows may not see all positions. A masked row
// has weight 0 for such a position, but 0 * infinity is NaN. So these values are taken out of the
// product and added to the rows that see them. Device code. Only a bfloat16 cache holds such
// values: of an int8 one the scales may be NaN, and a masked weight leaves them out.
#pragma once

#include "kernels/cuda/attention_types.h"

namespace intermix::cuda {

__device__ inline bool is_finite(uint32_t bf16) { return (bf16 & 0x7F80u) != 0x7F80u; }

// Zeros for the values of two that are not finite; then sets the top bit of a half of `found`, too.
__device__ inline uint32_t finite_pair(uint32_t pair, uint32_t& found) {
  const uint32_t tops = (pair & 0x7F807F80u) + 0x00800080u;
  found |= tops;
  return pair & ~prmt(tops, 0, 0xBB99);
}
template <int kTiles, int kRegisters>
__device__ void keep_finite(uint32_t (&values)[kTiles][kRegisters], uint32_t& found) {
#pragma unroll
  for (int i = 0; i < kTiles * kRegisters; ++i) {
    uint32_t& pair = values[i / kRegisters][i % kRegisters];
    pair = finite_pair(pair, found);
  }
}
// Whether a thread of the warp found one.
__device__ inline bool any_found(uint32_t found) { return ballot((found & 0x80008000u) != 0) != 0; }

// Values in shared memory, [positions, stride].
struct LinearValues {
  const uint16_t* first;
  int stride;

  __device__ const uint16_t* at(int position, int column) const {
    return first + position * stride + column;
  }
};

// Adds those of 16 positions of a chunk.
//   weights  [16 rows, stride weight_stride], of these positions
//   values   of the chunk: at(position, column), from the warp's first column on
//   begin    the first of the positions, in the chunk that begins at first_position
template <typename Values, int kTiles>
__device__ void add_unfinite(const uint16_t* weights, int weight_stride, const Values& values,
                             int32_t begin, int32_t first_position, const WarpRows& rows,
                             Partial<kTiles>& part) {
  const uint16_t* row = weights + lane_id() / 4 * weight_stride;
  const int32_t column = lane_id() % 4 * 2;
#pragma unroll 1
  for (int32_t t = 0; t < 16; ++t) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      if (first_position + begin + t > rows.positions[half]) continue;
      const float weight = from_bf16(row[half * 8 * weight_stride + t]);
#pragma unroll
      for (int n = 0; n < kTiles; ++n) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const uint32_t v = *values.at(begin + t, column + n * 8 + i);
          float& sum = part.out[n][half * 2 + i];
          if (!is_finite(v)) sum = fma_rn(weight, from_bf16(v), sum);
        }
      }
    }
  }
}

}  // namespace intermix::cuda
