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

// A thread's fragments of one query; `half`: which of its rows. Of an int8 cache, each 16 elements
// are in the order of widen_s8: the even ones first.
//   row  [head_dim] float32, padded here with zeros
template <typename C>
__device__ void load_query(const float* row, int32_t head_dim, int half,
                           uint32_t (&q)[C::kQuerySteps][4]) {
  const float* from = row + lane_id() % 4 * (C::kScaled ? 4 : 2);
  const bool whole = head_dim == C::kDim;  // the same for all: no branches then
#pragma unroll
  for (int step = 0; step < C::kQuerySteps; ++step) {
    float4 x = {0.0f, 0.0f, 0.0f, 0.0f};
    if (whole || step * 16 < head_dim) {
      if constexpr (C::kScaled) {
        x = *reinterpret_cast<const float4*>(from + step * 16);
        x = {x.x, x.z, x.y, x.w};
      } else {
        const float2 low = *reinterpret_cast<const float2*>(from + step * 16);
        x.x = low.x;
        x.y = low.y;
      }
    }
    if (!C::kScaled && (whole || step * 16 + 8 < head_dim)) {
      const float2 high = *reinterpret_cast<const float2*>(from + step * 16 + 8);
      x.z = high.x;
      x.w = high.y;
    }
    q[step][half] = pack_bf16(x.x, x.y);
    q[step][2 + half] = pack_bf16(x.z, x.w);
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

// As load_keys and load_values, of a bfloat16 chunk, for warps that have all of its positions and
// columns: one k16 step of two tiles, so that products of a tile are far apart.
//   keys  [16 positions, 16 elements];  values  [16 positions, 16 columns]
template <typename C>
__device__ int32_t key_pair_offset() {
  return (lane_id() / 16 * 8 + lane_id() % 8) * C::kStride + lane_id() / 8 % 2 * 8;
}
struct TilePair {
  uint32_t b[2][2];
};
__device__ inline TilePair load_key_pair(const uint16_t* from) {
  uint32_t bits[4];
  ldmatrix_x4(bits, from);
  return {{{bits[0], bits[1]}, {bits[2], bits[3]}}};
}
__device__ inline TilePair load_value_pair(const uint16_t* from) {
  uint32_t bits[4];
  ldmatrix_x4_trans(bits, from);
  return {{{bits[0], bits[1]}, {bits[2], bits[3]}}};
}

// Sixteen int8 become bfloat16 in widen_s8's order: the even ones in their place, the odd ones in
// another.
__device__ inline void widen_in_place(void* bytes_then_even, void* odd) {
  auto* even = static_cast<uint4*>(bytes_then_even);
  const uint4 bytes = *even;
  const EvenOdd x[4] = {widen_s8(bytes.x), widen_s8(bytes.y), widen_s8(bytes.z), widen_s8(bytes.w)};
  *even = {x[0].even, x[1].even, x[2].even, x[3].even};
  *static_cast<uint4*>(odd) = {x[0].odd, x[1].odd, x[2].odd, x[3].odd};
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
