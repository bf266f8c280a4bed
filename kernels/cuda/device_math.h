// Scalar arithmetic that several kernels share: the exponentials, bfloat16, the 16-lane tree, and
// 16-byte pieces of rows. Device code only; every operation rounds once, in the order of
// kernels/core/lane_math.h.
#pragma once

#include <cstdint>

#include "kernels/cuda/ptx.h"

namespace intermix::cuda {

inline constexpr int kWarp = 32;

// How a kernel begins that starts early but does nothing before the kernels ahead have ended.
__device__ inline void start_early() {
  let_next_kernel_start();
  wait_for_kernels_ahead();
}

__device__ inline float infinity() { return float_of_bits(0x7F800000u); }
__device__ inline float quiet_nan() { return float_of_bits(0x7FC00000u); }

__device__ inline float from_bf16(uint32_t bits) { return float_of_bits(bits << 16); }

// Two bfloat16, `low` in the lower half.
__device__ inline uint32_t pack_bf16(float low, float high) { return to_bf16x2(low, high); }

// Eight bfloat16 of 16 bytes, in memory order.
__device__ inline void widen_bf16(const uint4& bits, float (&x)[8]) {
  const uint32_t words[4] = {bits.x, bits.y, bits.z, bits.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    x[2 * i] = float_of_bits(words[i] << 16);
    x[2 * i + 1] = float_of_bits(words[i] & 0xFFFF0000u);
  }
}

__device__ inline uint4 narrow_bf16(const float (&x)[8]) {
  return {pack_bf16(x[0], x[1]), pack_bf16(x[2], x[3]), pack_bf16(x[4], x[5]),
          pack_bf16(x[6], x[7])};
}

// Eight float32 at a 16-byte aligned address.
__device__ inline void load_f32x8(const float* from, float (&x)[8]) {
  const float4 low = *reinterpret_cast<const float4*>(from);
  const float4 high = *reinterpret_cast<const float4*>(from + 4);
  x[0] = low.x, x[1] = low.y, x[2] = low.z, x[3] = low.w;
  x[4] = high.x, x[5] = high.y, x[6] = high.z, x[7] = high.w;
}

__device__ inline void store_f32x8(float* to, const float (&x)[8]) {
  *reinterpret_cast<float4*>(to) = {x[0], x[1], x[2], x[3]};
  *reinterpret_cast<float4*>(to + 4) = {x[4], x[5], x[6], x[7]};
}

// Eight elements of a row as float32: one 16-byte load of bfloat16, two of float32.
__device__ inline void load_row8(const uint16_t* from, float (&x)[8]) {
  widen_bf16(*reinterpret_cast<const uint4*>(from), x);
}
__device__ inline void load_row8(const float* from, float (&x)[8]) { load_f32x8(from, x); }

__device__ inline float load_row1(const uint16_t* from) { return from_bf16(*from); }
__device__ inline float load_row1(const float* from) { return *from; }

// LaneExp, operation by operation.
__device__ inline float lane_exp(float x) {
  constexpr float kRound = 12582912.0f;
  const float n = add_rn(add_rn(mul_rn(x, 1.44269504f), kRound), -kRound);
  float r = fma_rn(-n, 0.693359375f, x);
  r = fma_rn(-n, -2.12194440e-4f, r);
  float p = 1.9875691500e-4f;
  p = fma_rn(p, r, 1.3981999507e-3f);
  p = fma_rn(p, r, 8.3334519073e-3f);
  p = fma_rn(p, r, 4.1665795894e-2f);
  p = fma_rn(p, r, 1.6666665459e-1f);
  p = fma_rn(p, r, 5.0000001201e-1f);
  p = add_rn(fma_rn(p, mul_rn(r, r), r), 1.0f);
  if (!(x > -87.3f)) return x != x ? x : 0.0f;
  if (x >= 88.7f) return infinity();
  const int32_t i = round_s32(n);
  const int32_t half = i >> 1;
  const float a = float_of_bits(static_cast<uint32_t>(half + 127) << 23);
  const float b = float_of_bits(static_cast<uint32_t>(i - half + 127) << 23);
  return mul_rn(mul_rn(p, a), b);
}

// LaneSilu.
__device__ inline float lane_silu(float x) { return div_rn(x, add_rn(1.0f, lane_exp(-x))); }

// The tree of SumLanes over each half of a warp; its thread i holds the sum of lane i. All of the
// half get the result.
__device__ inline float sum_lanes(float sum) {
#pragma unroll
  for (int width = 8; width > 0; width /= 2) sum = add_rn(sum, shfl_xor_f32(sum, width));
  return sum;
}

// The bits of |x|; as integers they order like magnitudes, with infinity and NaN on top.
__device__ inline int32_t magnitude_bits(float x) {
  return static_cast<int32_t>(bits_of_float(x) & 0x7FFFFFFFu);
}

}  // namespace intermix::cuda
