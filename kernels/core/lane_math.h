// The float operations that every backend must do in one order (numerics.md, "Invariance", rule 2).
//
// A reduction over k runs in 16 lanes: element k goes to lane k % 16, ascending; lanes are then
// added as a tree: l with l+8, l with l+4, l with l+2, l with l+1. A missing tail element is left
// out of its lane (adding an exact zero is the same: no lane ever holds -0, as it starts at +0).
// Scalar code below; AVX2 (two registers of 8) and AVX-512 (one of 16) do the same operations.
#pragma once

#include <array>
#include <bit>
#include <cmath>
#include <cstdint>

namespace intermix {

inline constexpr int kLanes = 16;

using LaneSums = std::array<float, kLanes>;

// The fixed tree over 16 partial sums.
inline float SumLanes(LaneSums s) {
  for (int width = kLanes / 2; width > 0; width /= 2) {
    for (int l = 0; l < width; ++l) s[l] = s[l] + s[l + width];
  }
  return s[0];
}

// dot(a, b) over n elements: lane[k % 16] = fma(a[k], b[k], lane[k % 16]).
// A and B are anything that converts to float exactly (float, BFloat16).
template <typename A, typename B>
float LaneDot(const A* a, const B* b, int64_t n) {
  LaneSums lanes{};
  for (int64_t k = 0; k < n; ++k) {
    lanes[k % kLanes] =
        std::fma(static_cast<float>(a[k]), static_cast<float>(b[k]), lanes[k % kLanes]);
  }
  return SumLanes(lanes);
}

// 1.5 * 2^23: adding it to a small float rounds to an integer, ties to even.
inline constexpr float kRound = 12582912.0f;

// e^x for float32, with the same operations on every backend (relative error below 2e-7).
// x <= -87.3 (where the result would be subnormal) gives 0; x >= 88.7 gives +infinity; NaN stays.
inline float LaneExp(float x) {
  constexpr float kLog2e = 1.44269504f;
  constexpr float kLn2High = 0.693359375f;  // exact in 10 bits, so n * kLn2High is exact
  constexpr float kLn2Low = -2.12194440e-4f;
  if (!(x > -87.3f)) return x != x ? x : 0.0f;
  if (x >= 88.7f) return std::bit_cast<float>(0x7F800000u);
  const float n = (x * kLog2e + kRound) - kRound;
  float r = std::fma(-n, kLn2High, x);
  r = std::fma(-n, kLn2Low, r);
  float p = 1.9875691500e-4f;  // minimax for (e^r - 1 - r) / r^2 on |r| <= ln2 / 2 (Cephes expf)
  p = std::fma(p, r, 1.3981999507e-3f);
  p = std::fma(p, r, 8.3334519073e-3f);
  p = std::fma(p, r, 4.1665795894e-2f);
  p = std::fma(p, r, 1.6666665459e-1f);
  p = std::fma(p, r, 5.0000001201e-1f);
  p = std::fma(p, r * r, r);
  p = p + 1.0f;
  // 2^n in two factors, so that n = 128 does not overflow before the multiplication.
  const int32_t i = static_cast<int32_t>(n);
  const int32_t half = i >> 1;
  const float a = std::bit_cast<float>((half + 127) << 23);
  const float b = std::bit_cast<float>((i - half + 127) << 23);
  return (p * a) * b;
}

// x * sigmoid(x) = x / (1 + e^-x).
inline float LaneSilu(float x) { return x / (1.0f + LaneExp(-x)); }

// Round to nearest, ties to even, for |x| < 2^22.
inline int32_t RoundToInt(float x) { return static_cast<int32_t>((x + kRound) - kRound); }

}  // namespace intermix
