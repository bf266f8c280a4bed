// RowKernels over any lane type V (lanes.h). Included by row_kernels_<arch>.cc only.
#pragma once

#include <cmath>
#include <cstdint>

#include "kernels/cpu/attention_inl.h"
#include "kernels/cpu/float_dot_inl.h"
#include "kernels/cpu/lanes.h"
#include "kernels/cpu/row_kernels.h"

namespace intermix::cpu {

template <typename V>
struct RowOps {
  template <typename T>
  static float AbsMax(const T* x, int64_t n) {
    V max = V::Set(0.0f);
    ForLanes(n, [&](int64_t i, auto e) { max = V::MaxMagnitude(max, V::Load(x + i, e)); });
    constexpr int32_t kInfinity = 0x7F800000;
    const int32_t bits = max.LargestBits();
    return __builtin_bit_cast(float, bits >= kInfinity ? kInfinity : bits);
  }

  template <typename T>
  static void Quantize(const T* x, int64_t n, float factor, int8_t* out) {
    const V f = V::Set(factor);
    ForLanes(n, [&](int64_t i, auto e) { (V::Load(x + i, e) * f).StoreRounded(out + i, e); });
  }

  template <typename From, typename To>
  static void Convert(const From* x, int64_t n, To* out) {
    ForLanes(n, [&](int64_t i, auto e) { V::Load(x + i, e).Store(out + i, e); });
  }

  static void RmsNorm(const float* x, const float* weight, int64_t n, float eps, float* out) {
    V squares = V::Set(0.0f);
    ForLanes(n, [&](int64_t i, auto e) {
      const V row = V::Load(x + i, e);
      squares = V::Fma(row, row, squares);
    });
    const float mean_square = squares.Sum() / static_cast<float>(n);
    const V inverse = V::Set(1.0f / __builtin_sqrtf(mean_square + eps));
    ForLanes(n, [&](int64_t i, auto e) {
      ((V::Load(x + i, e) * inverse) * V::Load(weight + i, e)).Store(out + i, e);
    });
  }

  static void AddBf16(const uint16_t* delta, int64_t n, float* residual) {
    ForLanes(n, [&](int64_t i, auto e) {
      (V::Load(residual + i, e) + V::Load(delta + i, e)).Store(residual + i, e);
    });
  }

  static void Rotate(float* x, const float* angles, int64_t half) {
    ForLanes(half, [&](int64_t i, auto e) {
      const V c = V::Load(angles + i, e);
      const V s = V::Load(angles + half + i, e);
      const V low = V::Load(x + i, e);
      const V high = V::Load(x + half + i, e);
      V::Fms(low, c, high * s).Store(x + i, e);
      V::Fma(high, c, low * s).Store(x + half + i, e);
    });
  }

  static void SiluMul(const float* gate, const float* up, int64_t n, uint16_t* out) {
    const V one = V::Set(1.0f);
    ForLanes(n, [&](int64_t i, auto e) {
      const V g = V::Load(gate + i, e);
      const V silu = g / (one + g.Negate().Exp());
      (silu * V::Load(up + i, e)).Store(out + i, e);
    });
  }

  static void Combine(const uint16_t* const* rows, const float* weights, int num_rows, int64_t n,
                      float* residual) {
    ForLanes(n, [&](int64_t i, auto e) {
      V sum = V::Set(weights[0]) * V::Load(rows[0] + i, e);
      for (int r = 1; r < num_rows; ++r) sum = sum + V::Set(weights[r]) * V::Load(rows[r] + i, e);
      (V::Load(residual + i, e) + sum).Store(residual + i, e);
    });
  }

  static void Divide(const float* x, float divisor, int64_t n, uint16_t* out) {
    const V d = V::Set(divisor);
    ForLanes(n, [&](int64_t i, auto e) { (V::Load(x + i, e) / d).Store(out + i, e); });
  }

  static void Weights(const float* x, int64_t n, float max, float temperature, float* out) {
    const V m = V::Set(max);
    const V t = V::Set(temperature);
    ForLanes(n, [&](int64_t i, auto e) { ((V::Load(x + i, e) - m) / t).Exp().Store(out + i, e); });
  }

  static int64_t NextAbove(const float* x, int64_t begin, int64_t n, float bound) {
    const V most = V::Set(bound);
    int64_t i = begin;
    for (; i + 64 <= n; i += 64) {
      uint32_t above = 0;
      Unroll<4>([&](auto v) { above |= V::NotAtMost(V::Load(x + i + 16 * v, Full()), most); });
      if (above != 0) break;
    }
    for (; i + 16 <= n; i += 16) {
      const uint32_t above = V::NotAtMost(V::Load(x + i, Full()), most);
      if (above != 0) return i + __builtin_ctz(above);
    }
    while (i < n && x[i] <= bound) ++i;
    return i;
  }
};

template <typename V>
RowKernels MakeRowKernels() {
  using Ops = RowOps<V>;
  return {.abs_max_f32 = &Ops::template AbsMax<float>,
          .abs_max_bf16 = &Ops::template AbsMax<uint16_t>,
          .quantize_f32 = &Ops::template Quantize<float>,
          .quantize_bf16 = &Ops::template Quantize<uint16_t>,
          .widen = &Ops::template Convert<uint16_t, float>,
          .narrow = &Ops::template Convert<float, uint16_t>,
          .rms_norm = &Ops::RmsNorm,
          .add_bf16 = &Ops::AddBf16,
          .rotate = &Ops::Rotate,
          .silu_mul = &Ops::SiluMul,
          .combine = &Ops::Combine,
          .attend_scores = &AttentionOps<V>::AllScores,
          .attend_softmax = &AttentionOps<V>::AllSoftmax,
          .attend_values = &AttentionOps<V>::AllValues,
          .merge_split = &AttentionOps<V>::Merge,
          .divide = &Ops::Divide,
          .dot_f32 = &FloatDot<V, float>::Run,
          .dot_bf16 = &FloatDot<V, uint16_t>::Run,
          .next_above = &Ops::NextAbove,
          .weights = &Ops::Weights};
}

}  // namespace intermix::cpu
