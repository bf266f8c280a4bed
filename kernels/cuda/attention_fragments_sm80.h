// From queries and a chunk of the cache to mma fragments of bfloat16, and which columns the results
// are. An int8 fragment comes from the same ldmatrix as a bfloat16 one, so a 16-bit element of it
// holds two neighbours; widen_s8 takes them apart. Queries and output columns follow that order.
// Fragments follow the PTX ISA, "Matrix Fragments for mma.m16n8k16" and "ldmatrix". Device code.
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

// A thread's fragments of one query, zeros where there is none; `half`: which of its rows. Of an
// int8 cache, each 16 elements are in the order of widen_s8: the even ones first.
//   row  [head_dim] float32; null: no such query
template <typename C>
__device__ void load_query(const float* row, int32_t head_dim, int half,
                           uint32_t (&q)[C::kQuerySteps][4]) {
  const int32_t first = lane_id() % 4 * (C::kScaled ? 4 : 2);
#pragma unroll
  for (int step = 0; step < C::kQuerySteps; ++step) {
    const int32_t column = step * 16 + first;
    float2 low = {0.0f, 0.0f};
    float2 high = {0.0f, 0.0f};
    if (row != nullptr && column < head_dim) {
      if constexpr (C::kScaled) {
        const float4 x = *reinterpret_cast<const float4*>(row + column);
        low = {x.x, x.z};
        high = {x.y, x.w};
      } else {
        low = *reinterpret_cast<const float2*>(row + column);
        if (step * 16 + 8 < head_dim) high = *reinterpret_cast<const float2*>(row + column + 8);
      }
    }
    q[step][half] = pack_bf16(low.x, low.y);
    q[step][2 + half] = pack_bf16(high.x, high.y);
  }
}

// Where this thread's row of load_keys lies in a chunk.
template <typename C>
__device__ int32_t key_offset() {
  return lane_id() % 8 * C::kStride + lane_id() / 8 * C::kPiece;
}
// Keys of 8 positions and kKeySteps * 16 elements.
template <typename C>
__device__ void load_keys(const typename C::Element* from, uint32_t (&b)[C::kKeySteps][2]) {
  uint32_t bits[4];
  ldmatrix_x4(bits, from);
#pragma unroll
  for (int j = 0; j < C::kKeySteps; ++j) {
    if constexpr (C::kScaled) {
      const EvenOdd keys = widen_s8(bits[j]);
      b[j][0] = keys.even;
      b[j][1] = keys.odd;
    } else {
      b[j][0] = bits[2 * j];
      b[j][1] = bits[2 * j + 1];
    }
  }
}

// The same of load_values.
template <typename C>
__device__ int32_t value_offset() {
  if constexpr (C::kScaled) return lane_id() * C::kStride;
  return lane_id() % 16 * C::kStride + lane_id() / 16 * 8;
}
// Values of 32 positions and 16 columns: b[n][step] of column tile n and 16 positions.
template <typename C>
__device__ void load_values(const typename C::Element* from, uint32_t (&b)[2][2][2]) {
  uint32_t bits[4];
  if constexpr (C::kScaled) {
    ldmatrix_x4_trans(bits, from);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const EvenOdd values = widen_s8(bits[j]);
      b[0][j / 2][j % 2] = values.even;
      b[1][j / 2][j % 2] = values.odd;
    }
  } else {
#pragma unroll
    for (int step = 0; step < 2; ++step) {
      ldmatrix_x4_trans(bits, from + step * 16 * C::kStride);
#pragma unroll
      for (int j = 0; j < 4; ++j) b[j / 2][step][j % 2] = bits[j];
    }
  }
}

// Two neighbouring columns of a thread's output fragments, among the warp's. An int8 cache has
// columns 2 n of 16 in one fragment and columns 2 n + 1 in the next (widen_s8), so these are one
// from each.
template <typename C>
__device__ int32_t out_column(int n) {
  if constexpr (C::kScaled) return n / 2 * 16 + lane_id() % 4 * 4 + n % 2 * 2;
  return n * 8 + lane_id() % 4 * 2;
}
template <typename C, int kTiles>
__device__ float2 out_pair(const Partial<kTiles>& part, int n, int half) {
  if constexpr (C::kScaled) {
    const int i = half * 2 + n % 2;
    return {part.out[n / 2 * 2][i], part.out[n / 2 * 2 + 1][i]};
  }
  return {part.out[n][half * 2], part.out[n][half * 2 + 1]};
}

}  // namespace intermix::cuda
