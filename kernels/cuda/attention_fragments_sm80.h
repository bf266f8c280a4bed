// From the cache's elements to mma fragments of bfloat16, and which columns the results are. An
// int8 fragment comes from the same ldmatrix as a bfloat16 one, so a 16-bit element of it holds two
// neighbours; widen_s8 takes them apart. Queries and output columns follow that order. Device code.
#pragma once

#include "kernels/cuda/attention_types.h"

namespace intermix::cuda {

// Four int8 as bfloat16, exactly: elements 0 and 2, and elements 1 and 3. An int8 is its low 7 bits
// less its top bit, and bfloat16 holds 128 + x with x in its last bits.
struct EvenOdd {
  uint32_t even;
  uint32_t odd;
};
__device__ inline uint32_t widen_bytes_0_and_2(uint32_t bytes) {
  constexpr uint32_t kOne = 0x3F803F80u;
  return fma_bf16x2((bytes & 0x007F007Fu) | 0x43004300u, kOne, (bytes & 0x00800080u) | 0xC300C300u);
}
__device__ inline EvenOdd widen_s8(uint32_t bytes) {
  return {widen_bytes_0_and_2(bytes), widen_bytes_0_and_2(bytes >> 8)};
}

// Products of two tiles of 8 positions with the warp's queries. bits: ldmatrix_x4 of 32 bytes of
// keys of both; a: the queries' fragments of as many elements.
template <typename S, int kSteps>
__device__ void score_tiles(const uint32_t (&a)[S::kWarpRowTiles][kSteps][4],
                            const uint32_t (&bits)[4], int n,
                            float (&scores)[S::kWarpRowTiles][S::kScoreTiles][4]) {
  if constexpr (S::kScaled) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const EvenOdd keys = widen_s8(bits[j]);
#pragma unroll
      for (int m = 0; m < S::kWarpRowTiles; ++m) {
        mma_m16n8k16_bf16(scores[m][n + j / 2], a[m][j % 2], {keys.even, keys.odd});
      }
    }
  } else {
#pragma unroll
    for (int m = 0; m < S::kWarpRowTiles; ++m) {
      mma_m16n8k16_bf16(scores[m][n], a[m][0], {bits[0], bits[1]});
      mma_m16n8k16_bf16(scores[m][n + 1], a[m][0], {bits[2], bits[3]});
    }
  }
}

// Elements column .. column + 7 of a query, in the order of the key fragments: as they are, or, for
// an int8 cache, of each 16 the even ones first (widen_s8).
template <typename S>
__device__ void store_query(uint16_t* row, int32_t column, const uint4& piece) {
  if constexpr (S::kScaled) {
    const uint2 even = {prmt(piece.x, piece.y, 0x5410), prmt(piece.z, piece.w, 0x5410)};
    const uint2 odd = {prmt(piece.x, piece.y, 0x7632), prmt(piece.z, piece.w, 0x7632)};
    uint16_t* to = row + column / 16 * 16 + column % 16 / 2;
    *reinterpret_cast<uint2*>(to) = even;
    *reinterpret_cast<uint2*>(to + 8) = odd;
  } else {
    *reinterpret_cast<uint4*>(row + column) = piece;
  }
}

// Two neighbouring columns of a thread's output fragments. An int8 cache has columns 2 n of 16 in
// one fragment and columns 2 n + 1 in the next (widen_s8), so these are one from each.
template <typename S>
__device__ int32_t out_column(const ThreadPlace& at, int n) {
  const int32_t first = at.column_warp * S::kOutTiles * 8;
  if constexpr (S::kScaled) return first + n / 2 * 16 + at.lane % 4 * 4 + n % 2 * 2;
  return first + n * 8 + at.lane % 4 * 2;
}
template <typename S>
__device__ float2 out_pair(const Partial<S>& part, int m, int n, int half) {
  if constexpr (S::kScaled) {
    const int i = half * 2 + n % 2;
    return {part.out[m][n / 2 * 2][i], part.out[m][n / 2 * 2 + 1][i]};
  }
  return {part.out[m][n][half * 2], part.out[m][n][half * 2 + 1]};
}

}  // namespace intermix::cuda
