// How a row becomes int8 codes with one scale (Backend::QuantizeRows), once its largest magnitude
// is known. Device code; bit-identical to ReferenceBackend.
#pragma once

#include "kernels/cuda/device_math.h"

namespace intermix::cuda {

// The amax of a row from the largest magnitude_bits of its elements.
__device__ inline float amax_of_bits(int32_t largest) {
  constexpr int32_t kInfinityBits = 0x7F800000;
  return largest >= kInfinityBits ? infinity() : float_of_bits(static_cast<uint32_t>(largest));
}

// What the largest magnitude of a row says about its codes.
struct RowScale {
  float scale;    // amax / 127; 0 for a row that counts as zero, NaN for one that is not finite
  float inverse;  // 127 / amax; 0 where all codes are zero
};

__device__ inline RowScale row_scale(float amax) {
  if (!(amax < infinity())) return {quiet_nan(), 0.0f};
  if (amax < 0x1p-100f) return {0.0f, 0.0f};
  return {div_rn(amax, 127.0f), div_rn(127.0f, amax)};
}

__device__ inline uint32_t code(float x, float inverse) {
  return static_cast<uint32_t>(round_s32(mul_rn(x, inverse))) & 0xFFu;
}

// Four codes.
__device__ inline uint32_t code4(const float* x, float inverse) {
  return code(x[0], inverse) | code(x[1], inverse) << 8 | code(x[2], inverse) << 16 |
         code(x[3], inverse) << 24;
}

}  // namespace intermix::cuda
