// LanesScalar: the 16 float lanes of kernels/core/lane_math.h in plain C++, for any processor.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#include "kernels/core/dtype.h"
#include "kernels/core/lane_math.h"
#include "kernels/cpu/lanes.h"

namespace intermix::cpu {

struct LanesScalar {
  static constexpr int kDotRows = 1;       // register tile of x . w: rows of x ...
  static constexpr int kDotCols = 2;       // ... by rows of w
  static constexpr int kValueQueries = 1;  // register tile of p . V: queries ...
  static constexpr int kValueVectors = 1;  // ... by vectors of head_dim

  float v[kLanes];

  template <typename F>
  static LanesScalar Map(F f) {
    LanesScalar r;
    for (int l = 0; l < kLanes; ++l) r.v[l] = f(l);
    return r;
  }
  static int Count(Full) { return kLanes; }
  static int Count(Tail t) { return t.count; }
  static float ToFloat(float x) { return x; }
  static float ToFloat(int8_t code) { return static_cast<float>(code); }
  static float ToFloat(uint16_t bits) { return static_cast<float>(BFloat16::FromBits(bits)); }

  static LanesScalar Set(float x) {
    return Map([=](int) { return x; });
  }
  // T: float, int8_t, or uint16_t for bfloat16 bits. Lanes beyond a tail are zero.
  template <typename T, typename Extent>
  static LanesScalar Load(const T* p, Extent e) {
    return Map([=](int l) { return l < Count(e) ? ToFloat(p[l]) : 0.0f; });
  }
  template <typename Extent>
  void Store(float* p, Extent e) const {
    for (int l = 0; l < Count(e); ++l) p[l] = v[l];
  }
  template <typename Extent>
  void Store(uint16_t* p, Extent e) const {
    for (int l = 0; l < Count(e); ++l) p[l] = BFloat16(v[l]).bits;
  }
  template <typename Extent>
  void StoreRounded(int8_t* p, Extent e) const {  // to the nearest integer, ties to even
    for (int l = 0; l < Count(e); ++l) p[l] = static_cast<int8_t>(RoundToInt(v[l]));
  }

  friend LanesScalar operator+(const LanesScalar& a, const LanesScalar& b) {
    return Map([&](int l) { return a.v[l] + b.v[l]; });
  }
  friend LanesScalar operator-(const LanesScalar& a, const LanesScalar& b) {
    return Map([&](int l) { return a.v[l] - b.v[l]; });
  }
  friend LanesScalar operator*(const LanesScalar& a, const LanesScalar& b) {
    return Map([&](int l) { return a.v[l] * b.v[l]; });
  }
  friend LanesScalar operator/(const LanesScalar& a, const LanesScalar& b) {
    return Map([&](int l) { return a.v[l] / b.v[l]; });
  }
  static LanesScalar Fma(const LanesScalar& a, const LanesScalar& b, const LanesScalar& c) {
    return Map([&](int l) { return std::fma(a.v[l], b.v[l], c.v[l]); });
  }
  static LanesScalar Fms(const LanesScalar& a, const LanesScalar& b, const LanesScalar& c) {
    return Map([&](int l) { return std::fma(a.v[l], b.v[l], -c.v[l]); });
  }
  LanesScalar Negate() const {
    return Map([&](int l) { return -v[l]; });
  }
  static LanesScalar Max(const LanesScalar& a, const LanesScalar& b) {
    return Map([&](int l) { return a.v[l] > b.v[l] ? a.v[l] : b.v[l]; });
  }
  // Bit l is set where lane l of a is more than that of b, or one of them is a NaN.
  static uint32_t NotAtMost(const LanesScalar& a, const LanesScalar& b) {
    uint32_t bits = 0;
    for (int l = 0; l < kLanes; ++l) bits |= (a.v[l] <= b.v[l] ? 0u : 1u) << l;
    return bits;
  }
  // x, with zero in the lanes beyond a tail.
  template <typename Extent>
  static LanesScalar Keep(const LanesScalar& x, Extent e) {
    return Map([&](int l) { return l < Count(e) ? x.v[l] : 0.0f; });
  }

  // Magnitudes compared as integers, so that NaN > infinity > any number.
  static LanesScalar MaxMagnitude(const LanesScalar& max, const LanesScalar& x) {
    return Map([&](int l) {
      const int32_t bits = std::bit_cast<int32_t>(x.v[l]) & 0x7FFFFFFF;
      return bits > std::bit_cast<int32_t>(max.v[l]) ? std::bit_cast<float>(bits) : max.v[l];
    });
  }
  int32_t LargestBits() const {
    int32_t largest = std::bit_cast<int32_t>(v[0]);
    for (float x : v) {
      const int32_t bits = std::bit_cast<int32_t>(x);
      largest = bits > largest ? bits : largest;
    }
    return largest;
  }
  float Largest() const {
    float largest = v[0];
    for (float x : v) largest = x > largest ? x : largest;
    return largest;
  }

  // The tree of SumLanes.
  float Sum() const {
    LaneSums lanes;
    for (int l = 0; l < kLanes; ++l) lanes[static_cast<size_t>(l)] = v[l];
    return SumLanes(lanes);
  }
  // out[r * stride + c] = sums[r][c].Sum() * factor
  template <int R, int C>
  static void SumTile(const LanesScalar (&sums)[R][C], float factor, float* out, int64_t stride) {
    SumEach(sums, factor, out, stride);
  }
  // LaneExp of each lane.
  LanesScalar Exp() const {
    return Map([&](int l) { return LaneExp(v[l]); });
  }
};

}  // namespace intermix::cpu
