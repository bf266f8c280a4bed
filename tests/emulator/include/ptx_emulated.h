// Bodies of kernels/cuda/ptx.h in the emulated build: what is cheap enough to inline into a kernel.
// The rest is in tests/emulator/ptx_*.cc.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#include "kernels/core/check.h"
#include "kernels/cuda/ptx.h"

namespace emu {
void WaitForCopies(int groups);
void WaitForWgmma(int groups, const void* site);
}  // namespace emu

namespace intermix::cuda {

template <int N>
void cp_async_wait() {
  emu::WaitForCopies(N);
}

template <int N>
void wgmma_wait() {
  emu::WaitForWgmma(N, __builtin_return_address(0));
}
inline void wgmma_settle(int32_t (&)[16][4]) {}
template <int kTiles>
void wgmma_settle(float (&)[kTiles][4]) {}
inline void wgmma_settle(float (&)[4]) {}
inline void wgmma_settle(uint32_t (&)[4]) {}
template <int N>
void give_up_registers() {}
template <int N>
void take_registers() {}

inline float fma_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline float mul_rn(float a, float b) { return a * b; }
inline float add_rn(float a, float b) { return a + b; }
inline float div_rn(float a, float b) { return a / b; }
inline float sqrt_rn(float a) { return std::sqrt(a); }
inline float to_f32(int32_t value) { return static_cast<float>(value); }

// cvt.rni: ties to even; NaN gives 0, what does not fit is clamped (PTX ISA, "cvt").
inline int32_t round_s32(float value) {
  if (value != value) return 0;
  if (value >= 2147483648.0f) return INT32_MAX;
  if (value < -2147483648.0f) return INT32_MIN;
  return static_cast<int32_t>(std::nearbyint(value));
}

inline uint16_t to_bf16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if (value != value) return 0x7FFF;
  return static_cast<uint16_t>((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
}

inline uint32_t to_bf16x2(float low, float high) {
  return to_bf16(low) | static_cast<uint32_t>(to_bf16(high)) << 16;
}

// The device's last bits are not documented; here the nearest float but one, or nearly so.
inline float exp2_approx(float x) {
  const float y = std::exp2(x);
  return y < 0x1p-126f ? 0.0f : y;
}
inline float max_nan(float a, float b) {
  if (a != a || b != b) return std::bit_cast<float>(0x7FFFFFFFu);
  return a > b ? a : b;
}

// A result that would be rounded is a fault of the kernel's: ptx.h rules it out.
inline uint32_t fma_bf16x2(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t result = 0;
  for (int shift = 0; shift < 32; shift += 16) {
    const auto half = [shift](uint32_t x) { return std::bit_cast<float>(x >> shift << 16); };
    const float exact = std::fma(half(a), half(b), half(c));
    const uint32_t bits = std::bit_cast<uint32_t>(exact);
    CHECK_EQ(bits & 0xFFFFu, 0u) << "fma_bf16x2 rounds " << exact;
    result |= bits >> 16 << shift;
  }
  return result;
}

inline float float_of_bits(uint32_t bits) { return std::bit_cast<float>(bits); }
inline uint32_t bits_of_float(float value) { return std::bit_cast<uint32_t>(value); }
inline int32_t opaque(int32_t value) { return value; }
inline const float* opaque(const float* address) { return address; }
inline int32_t dot_s8x4(uint32_t a, uint32_t b, int32_t sum) {
  for (int shift = 0; shift < 32; shift += 8) {
    sum += static_cast<int8_t>(a >> shift) * static_cast<int8_t>(b >> shift);
  }
  return sum;
}
inline int32_t popc(uint32_t value) { return std::popcount(value); }

// Byte i of the result is byte (selector >> 4i) & 7 of b:a; bit 3 of the selector nibble spreads
// its sign (PTX ISA, "prmt").
inline uint32_t prmt(uint32_t a, uint32_t b, uint32_t selector) {
  const uint64_t bytes = uint64_t{b} << 32 | a;
  uint32_t result = 0;
  for (int i = 0; i < 4; ++i) {
    const uint32_t nibble = selector >> (4 * i) & 0xF;
    uint32_t byte = static_cast<uint32_t>(bytes >> (8 * (nibble & 7))) & 0xFF;
    if (nibble & 8) byte = byte & 0x80 ? 0xFF : 0;
    result |= byte << (8 * i);
  }
  return result;
}

}  // namespace intermix::cuda
