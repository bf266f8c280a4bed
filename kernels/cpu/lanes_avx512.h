// LanesAvx512: the 16 float lanes of kernels/core/lane_math.h in one AVX-512 register.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "kernels/cpu/lanes.h"

namespace intermix::cpu {

struct LanesAvx512 {
  static constexpr int kDotRows = 4;
  static constexpr int kDotCols = 4;
  static constexpr int kValueQueries = 4;
  static constexpr int kValueVectors = 4;

  __m512 v;

  static __mmask16 Mask(Tail t) { return static_cast<__mmask16>((1u << t.count) - 1u); }
  static LanesAvx512 Set(float x) { return {_mm512_set1_ps(x)}; }

  static LanesAvx512 Load(const float* p, Full) { return {_mm512_loadu_ps(p)}; }
  static LanesAvx512 Load(const float* p, Tail t) { return {_mm512_maskz_loadu_ps(Mask(t), p)}; }
  static LanesAvx512 Load(const uint16_t* p, Full) {
    return Widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static LanesAvx512 Load(const uint16_t* p, Tail t) {
    return Widen(_mm256_maskz_loadu_epi16(Mask(t), p));
  }
  static LanesAvx512 Load(const int8_t* p, Full) {
    return Widen(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static LanesAvx512 Load(const int8_t* p, Tail t) {
    return Widen(_mm_maskz_loadu_epi8(Mask(t), p));
  }
  void Store(float* p, Full) const { _mm512_storeu_ps(p, v); }
  void Store(float* p, Tail t) const { _mm512_mask_storeu_ps(p, Mask(t), v); }
  void Store(uint16_t* p, Full) const {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), Narrow());
  }
  void Store(uint16_t* p, Tail t) const { _mm256_mask_storeu_epi16(p, Mask(t), Narrow()); }
  void StoreRounded(int8_t* p, Full) const {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(v)));
  }
  void StoreRounded(int8_t* p, Tail t) const {
    _mm512_mask_cvtepi32_storeu_epi8(p, Mask(t), _mm512_cvtps_epi32(v));
  }

  friend LanesAvx512 operator+(LanesAvx512 a, LanesAvx512 b) { return {_mm512_add_ps(a.v, b.v)}; }
  friend LanesAvx512 operator-(LanesAvx512 a, LanesAvx512 b) { return {_mm512_sub_ps(a.v, b.v)}; }
  friend LanesAvx512 operator*(LanesAvx512 a, LanesAvx512 b) { return {_mm512_mul_ps(a.v, b.v)}; }
  friend LanesAvx512 operator/(LanesAvx512 a, LanesAvx512 b) { return {_mm512_div_ps(a.v, b.v)}; }
  static LanesAvx512 Fma(LanesAvx512 a, LanesAvx512 b, LanesAvx512 c) {
    return {_mm512_fmadd_ps(a.v, b.v, c.v)};
  }
  static LanesAvx512 Fms(LanesAvx512 a, LanesAvx512 b, LanesAvx512 c) {
    return {_mm512_fmsub_ps(a.v, b.v, c.v)};
  }
  LanesAvx512 Negate() const {
    return {_mm512_xor_ps(v, _mm512_castsi512_ps(_mm512_set1_epi32(INT32_MIN)))};
  }
  static LanesAvx512 Max(LanesAvx512 a, LanesAvx512 b) { return {_mm512_max_ps(a.v, b.v)}; }
  static uint32_t NotAtMost(LanesAvx512 a, LanesAvx512 b) {
    return _mm512_cmp_ps_mask(a.v, b.v, _CMP_NLE_UQ);
  }
  static LanesAvx512 Keep(LanesAvx512 x, Full) { return x; }
  static LanesAvx512 Keep(LanesAvx512 x, Tail t) { return {_mm512_maskz_mov_ps(Mask(t), x.v)}; }

  static LanesAvx512 MaxMagnitude(LanesAvx512 max, LanesAvx512 x) {
    const __m512i bits = _mm512_and_si512(_mm512_castps_si512(x.v), _mm512_set1_epi32(0x7FFFFFFF));
    return {_mm512_castsi512_ps(_mm512_max_epi32(_mm512_castps_si512(max.v), bits))};
  }
  int32_t LargestBits() const { return _mm512_reduce_max_epi32(_mm512_castps_si512(v)); }
  float Largest() const { return _mm512_reduce_max_ps(v); }

  float Sum() const {
    const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    const __m128 quarter = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
    const __m128 pair = _mm_add_ps(quarter, _mm_movehl_ps(quarter, quarter));
    return _mm_cvtss_f32(_mm_add_ss(pair, _mm_movehdup_ps(pair)));
  }

  // out[r * stride + c] = sums[r][c].Sum() * factor, 16 trees at once: each step adds the halves of
  // twice as many vectors as the next one.
  static void SumTile(const LanesAvx512 (&sums)[4][4], float factor, float* out, int64_t stride) {
    __m512 columns[4];  // 4 lanes left of each of a column's rows
    Unroll<4>([&](auto c) {
      const __m512 top = AddHalves(sums[0][c].v, sums[1][c].v);
      const __m512 bottom = AddHalves(sums[2][c].v, sums[3][c].v);
      columns[c] = _mm512_add_ps(_mm512_shuffle_f32x4(top, bottom, 0x88),
                                 _mm512_shuffle_f32x4(top, bottom, 0xDD));
    });
    const __m512 left = AddPairs(columns[0], columns[1]);
    const __m512 right = AddPairs(columns[2], columns[3]);
    const __m512 total = _mm512_mul_ps(
        _mm512_add_ps(_mm512_shuffle_ps(left, right, 0x88), _mm512_shuffle_ps(left, right, 0xDD)),
        _mm512_set1_ps(factor));
    Unroll<4>([&](auto r) { _mm_storeu_ps(out + r * stride, _mm512_extractf32x4_ps(total, r)); });
  }
  template <int R, int C>
  static void SumTile(const LanesAvx512 (&sums)[R][C], float factor, float* out, int64_t stride) {
    SumEach(sums, factor, out, stride);
  }

  LanesAvx512 Exp() const {
    const __m512 round = _mm512_set1_ps(kExpRound);
    const __m512 n =
        _mm512_sub_ps(_mm512_add_ps(_mm512_mul_ps(v, _mm512_set1_ps(kLog2e)), round), round);
    __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(kLn2High), v);
    r = _mm512_fnmadd_ps(n, _mm512_set1_ps(kLn2Low), r);
    __m512 p = _mm512_set1_ps(kExpPoly[0]);
    for (int i = 1; i < 6; ++i) p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(kExpPoly[i]));
    p = _mm512_fmadd_ps(p, _mm512_mul_ps(r, r), r);
    p = _mm512_add_ps(p, _mm512_set1_ps(1.0f));
    const __m512i i = _mm512_cvttps_epi32(n);
    const __m512i half = _mm512_srai_epi32(i, 1);
    const __m512i bias = _mm512_set1_epi32(127);
    const __m512 a = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(half, bias), 23));
    const __m512 b = _mm512_castsi512_ps(
        _mm512_slli_epi32(_mm512_add_epi32(_mm512_sub_epi32(i, half), bias), 23));
    __m512 result = _mm512_mul_ps(_mm512_mul_ps(p, a), b);
    result =
        _mm512_mask_mov_ps(result, _mm512_cmp_ps_mask(v, _mm512_set1_ps(kExpOverflow), _CMP_GE_OQ),
                           _mm512_castsi512_ps(_mm512_set1_epi32(0x7F800000)));
    result = _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(v, _mm512_set1_ps(kExpUnderflow), _CMP_NLE_UQ),
                                 result);
    return {_mm512_mask_mov_ps(result, _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q), v)};
  }

 private:
  // Lanes 0 .. 7 plus 8 .. 15 of a, then of b.
  static __m512 AddHalves(__m512 a, __m512 b) {
    return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xEE));
  }
  // In each quarter: lanes 0, 1 plus 2, 3 of a, then of b.
  static __m512 AddPairs(__m512 a, __m512 b) {
    const __m512d x = _mm512_castps_pd(a);
    const __m512d y = _mm512_castps_pd(b);
    return _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(x, y)),
                         _mm512_castpd_ps(_mm512_unpackhi_pd(x, y)));
  }
  // Each 16 bits become the upper half of a lane, in one instruction.
  static LanesAvx512 Widen(__m256i bits) {
    const __m512i upper = _mm512_set_epi16(15, 15, 14, 14, 13, 13, 12, 12, 11, 11, 10, 10, 9, 9, 8,
                                           8, 7, 7, 6, 6, 5, 5, 4, 4, 3, 3, 2, 2, 1, 1, 0, 0);
    return {_mm512_castsi512_ps(
        _mm512_maskz_permutexvar_epi16(0xAAAAAAAA, upper, _mm512_castsi256_si512(bits)))};
  }
  static LanesAvx512 Widen(__m128i bytes) {
    return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes))};
  }
  __m256i Narrow() const {
    const __m512i u = _mm512_castps_si512(v);
    const __m512i high = _mm512_srli_epi32(u, 16);
    const __m512i tie = _mm512_and_si512(high, _mm512_set1_epi32(1));
    const __m512i rounded = _mm512_srli_epi32(
        _mm512_add_epi32(_mm512_add_epi32(u, _mm512_set1_epi32(0x7FFF)), tie), 16);
    const __m512i nan = _mm512_or_si512(high, _mm512_set1_epi32(0x40));
    return _mm512_cvtepi32_epi16(
        _mm512_mask_mov_epi32(rounded, _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q), nan));
  }
};

}  // namespace intermix::cpu
