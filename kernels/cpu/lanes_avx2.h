// LanesAvx2: the 16 float lanes of kernels/core/lane_math.h in two AVX2 registers, with FMA.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "kernels/cpu/lanes.h"

namespace intermix::cpu {

struct LanesAvx2 {
  static constexpr int kDotRows = 2;
  static constexpr int kDotCols = 2;
  static constexpr int kValueQueries = 2;
  static constexpr int kValueVectors = 2;

  __m256 lo;  // lanes 0 .. 7
  __m256 hi;  // lanes 8 .. 15

  static LanesAvx2 Set(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }

  static LanesAvx2 Load(const float* p, Full) {
    return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)};
  }
  static LanesAvx2 Load(const uint16_t* p, Full) { return {Widen(p), Widen(p + 8)}; }
  static LanesAvx2 Load(const int8_t* p, Full) { return {Widen(p), Widen(p + 8)}; }
  template <typename T>
  static LanesAvx2 Load(const T* p, Tail t) {
    T copy[16] = {};
    std::memcpy(copy, p, sizeof(T) * static_cast<unsigned>(t.count));
    return Load(copy, Full());
  }
  void Store(float* p, Full) const {
    _mm256_storeu_ps(p, lo);
    _mm256_storeu_ps(p + 8, hi);
  }
  void Store(uint16_t* p, Full) const {
    const __m256i packed = _mm256_packus_epi32(Narrow(lo), Narrow(hi));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_permute4x64_epi64(packed, 0xD8));
  }
  void StoreRounded(int8_t* p, Full) const {
    const __m256i packed = _mm256_permute4x64_epi64(
        _mm256_packs_epi32(_mm256_cvtps_epi32(lo), _mm256_cvtps_epi32(hi)), 0xD8);
    const __m128i bytes =
        _mm_packs_epi16(_mm256_castsi256_si128(packed), _mm256_extracti128_si256(packed, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), bytes);
  }
  template <typename T>
  void Store(T* p, Tail t) const {
    T copy[16];
    Store(copy, Full());
    std::memcpy(p, copy, sizeof(T) * static_cast<unsigned>(t.count));
  }
  void StoreRounded(int8_t* p, Tail t) const {
    int8_t copy[16];
    StoreRounded(copy, Full());
    std::memcpy(p, copy, static_cast<unsigned>(t.count));
  }

  friend LanesAvx2 operator+(LanesAvx2 a, LanesAvx2 b) {
    return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)};
  }
  friend LanesAvx2 operator-(LanesAvx2 a, LanesAvx2 b) {
    return {_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)};
  }
  friend LanesAvx2 operator*(LanesAvx2 a, LanesAvx2 b) {
    return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)};
  }
  friend LanesAvx2 operator/(LanesAvx2 a, LanesAvx2 b) {
    return {_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)};
  }
  static LanesAvx2 Fma(LanesAvx2 a, LanesAvx2 b, LanesAvx2 c) {
    return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
  }
  static LanesAvx2 Fms(LanesAvx2 a, LanesAvx2 b, LanesAvx2 c) {
    return {_mm256_fmsub_ps(a.lo, b.lo, c.lo), _mm256_fmsub_ps(a.hi, b.hi, c.hi)};
  }
  LanesAvx2 Negate() const {
    const __m256 sign = _mm256_set1_ps(-0.0f);
    return {_mm256_xor_ps(lo, sign), _mm256_xor_ps(hi, sign)};
  }
  static LanesAvx2 Max(LanesAvx2 a, LanesAvx2 b) {
    return {_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)};
  }
  static uint32_t NotAtMost(LanesAvx2 a, LanesAvx2 b) {
    return static_cast<uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps(a.lo, b.lo, _CMP_NLE_UQ)) |
                                 _mm256_movemask_ps(_mm256_cmp_ps(a.hi, b.hi, _CMP_NLE_UQ)) << 8);
  }
  static LanesAvx2 Keep(LanesAvx2 x, Full) { return x; }
  static LanesAvx2 Keep(LanesAvx2 x, Tail t) {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    const __m256 keep_lo =
        _mm256_castsi256_ps(_mm256_cmpgt_epi32(_mm256_set1_epi32(t.count), lane));
    const __m256 keep_hi =
        _mm256_castsi256_ps(_mm256_cmpgt_epi32(_mm256_set1_epi32(t.count - 8), lane));
    return {_mm256_and_ps(x.lo, keep_lo), _mm256_and_ps(x.hi, keep_hi)};
  }

  static LanesAvx2 MaxMagnitude(LanesAvx2 max, LanesAvx2 x) {
    return {MaxMagnitude(max.lo, x.lo), MaxMagnitude(max.hi, x.hi)};
  }
  int32_t LargestBits() const {
    const __m256i max8 = _mm256_max_epi32(_mm256_castps_si256(lo), _mm256_castps_si256(hi));
    const __m128i max4 =
        _mm_max_epi32(_mm256_castsi256_si128(max8), _mm256_extracti128_si256(max8, 1));
    const __m128i max2 = _mm_max_epi32(max4, _mm_shuffle_epi32(max4, 0x4E));
    return _mm_cvtsi128_si32(_mm_max_epi32(max2, _mm_shuffle_epi32(max2, 0xB1)));
  }
  float Largest() const {
    const __m256 max8 = _mm256_max_ps(lo, hi);
    const __m128 max4 = _mm_max_ps(_mm256_castps256_ps128(max8), _mm256_extractf128_ps(max8, 1));
    const __m128 max2 = _mm_max_ps(max4, _mm_movehl_ps(max4, max4));
    return _mm_cvtss_f32(_mm_max_ss(max2, _mm_movehdup_ps(max2)));
  }

  float Sum() const {
    const __m256 half = _mm256_add_ps(lo, hi);
    const __m128 quarter = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
    const __m128 pair = _mm_add_ps(quarter, _mm_movehl_ps(quarter, quarter));
    return _mm_cvtss_f32(_mm_add_ss(pair, _mm_movehdup_ps(pair)));
  }

  // out[r * stride + c] = sums[r][c].Sum() * factor, 4 trees at once.
  static void SumTile(const LanesAvx2 (&sums)[2][2], float factor, float* out, int64_t stride) {
    const __m256 top = AddHalves(sums[0][0], sums[1][0]);  // column 0: row 0, row 1
    const __m256 bottom = AddHalves(sums[0][1], sums[1][1]);
    const __m256d x = _mm256_castps_pd(top);
    const __m256d y = _mm256_castps_pd(bottom);
    const __m256 pairs = _mm256_add_ps(_mm256_castpd_ps(_mm256_unpacklo_pd(x, y)),
                                       _mm256_castpd_ps(_mm256_unpackhi_pd(x, y)));
    const __m256 total =
        _mm256_mul_ps(_mm256_add_ps(_mm256_permute_ps(pairs, 0x08), _mm256_permute_ps(pairs, 0x0D)),
                      _mm256_set1_ps(factor));
    _mm_storel_pi(reinterpret_cast<__m64*>(out), _mm256_castps256_ps128(total));
    _mm_storel_pi(reinterpret_cast<__m64*>(out + stride), _mm256_extractf128_ps(total, 1));
  }
  template <int R, int C>
  static void SumTile(const LanesAvx2 (&sums)[R][C], float factor, float* out, int64_t stride) {
    SumEach(sums, factor, out, stride);
  }

  LanesAvx2 Exp() const { return {Exp(lo), Exp(hi)}; }

 private:
  // Lanes l + (l + 8), then l + (l + 4): 4 lanes left of a, then of b.
  static __m256 AddHalves(LanesAvx2 a, LanesAvx2 b) {
    const __m256 x = _mm256_add_ps(a.lo, a.hi);
    const __m256 y = _mm256_add_ps(b.lo, b.hi);
    return _mm256_add_ps(_mm256_permute2f128_ps(x, y, 0x20), _mm256_permute2f128_ps(x, y, 0x31));
  }
  static __m256 Widen(const uint16_t* p) {
    const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
  }
  static __m256 Widen(const int8_t* p) {
    const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes));
  }
  static __m256i Narrow(__m256 x) {  // bfloat16 bits in each 32-bit lane
    const __m256i u = _mm256_castps_si256(x);
    const __m256i high = _mm256_srli_epi32(u, 16);
    const __m256i tie = _mm256_and_si256(high, _mm256_set1_epi32(1));
    const __m256i rounded = _mm256_srli_epi32(
        _mm256_add_epi32(_mm256_add_epi32(u, _mm256_set1_epi32(0x7FFF)), tie), 16);
    const __m256i nan = _mm256_or_si256(high, _mm256_set1_epi32(0x40));
    const __m256 is_nan = _mm256_cmp_ps(x, x, _CMP_UNORD_Q);
    return _mm256_blendv_epi8(rounded, nan, _mm256_castps_si256(is_nan));
  }
  static __m256 MaxMagnitude(__m256 max, __m256 x) {
    const __m256i bits = _mm256_and_si256(_mm256_castps_si256(x), _mm256_set1_epi32(0x7FFFFFFF));
    return _mm256_castsi256_ps(_mm256_max_epi32(_mm256_castps_si256(max), bits));
  }
  static __m256 Exp(__m256 x) {
    const __m256 round = _mm256_set1_ps(kExpRound);
    const __m256 n =
        _mm256_sub_ps(_mm256_add_ps(_mm256_mul_ps(x, _mm256_set1_ps(kLog2e)), round), round);
    __m256 r = _mm256_fnmadd_ps(n, _mm256_set1_ps(kLn2High), x);
    r = _mm256_fnmadd_ps(n, _mm256_set1_ps(kLn2Low), r);
    __m256 p = _mm256_set1_ps(kExpPoly[0]);
    for (int i = 1; i < 6; ++i) p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(kExpPoly[i]));
    p = _mm256_fmadd_ps(p, _mm256_mul_ps(r, r), r);
    p = _mm256_add_ps(p, _mm256_set1_ps(1.0f));
    const __m256i i = _mm256_cvttps_epi32(n);
    const __m256i half = _mm256_srai_epi32(i, 1);
    const __m256i bias = _mm256_set1_epi32(127);
    const __m256 a = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(half, bias), 23));
    const __m256 b = _mm256_castsi256_ps(
        _mm256_slli_epi32(_mm256_add_epi32(_mm256_sub_epi32(i, half), bias), 23));
    __m256 result = _mm256_mul_ps(_mm256_mul_ps(p, a), b);
    const __m256 infinity = _mm256_castsi256_ps(_mm256_set1_epi32(0x7F800000));
    result = _mm256_blendv_ps(result, infinity,
                              _mm256_cmp_ps(x, _mm256_set1_ps(kExpOverflow), _CMP_GE_OQ));
    result = _mm256_and_ps(result, _mm256_cmp_ps(x, _mm256_set1_ps(kExpUnderflow), _CMP_NLE_UQ));
    return _mm256_blendv_ps(result, x, _mm256_cmp_ps(x, x, _CMP_UNORD_Q));
  }
};

}  // namespace intermix::cpu
