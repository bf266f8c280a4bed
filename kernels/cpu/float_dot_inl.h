// Unquantised linear layers: tiles of LaneDot, so that the chains of several outputs overlap.
// Included by row_kernels_inl.h only; V is a lane type, W float or uint16_t (bfloat16 bits).
#pragma once

#include <cstdint>

#include "kernels/cpu/lanes.h"
#include "kernels/cpu/row_kernels.h"

namespace intermix::cpu {

template <typename V, typename W>
struct FloatDot {
  // Rows [m, m + R) of x by rows [n, n + C) of w. Flattened: a call in the loop would keep the sums
  // in memory.
  template <int R, int C, typename Y>
  [[gnu::flatten]] static void Tile(const FloatTile& t, int64_t m, int64_t n) {
    V sums[R][C];
    Unroll<R>([&](auto r) { Unroll<C>([&](auto c) { sums[r][c] = V::Set(0.0f); }); });
    const float* x = t.x + m * t.x_stride;
    const W* w = static_cast<const W*>(t.w) + n * t.w_stride;
    ForLanes(t.k, [&](int64_t i, auto e) {
      V b[C];
      Unroll<C>([&](auto c) { b[c] = V::Load(w + c * t.w_stride + i, e); });
      Unroll<R>([&](auto r) {
        const V a = V::Load(x + r * t.x_stride + i, e);
        Unroll<C>([&](auto c) { sums[r][c] = V::Fma(a, b[c], sums[r][c]); });
      });
    });
    float totals[R * C];
    V::SumTile(sums, 1.0f, totals, C);
    Unroll<R>([&](auto r) {
      Y* y = static_cast<Y*>(t.y) + (m + r) * t.y_stride + n;
      V::Load(totals + r * C, Tail{C}).Store(y, Tail{C});
    });
  }

  template <int R, typename Y>
  static void Rows(const FloatTile& t, int64_t m) {
    int64_t n = 0;
    for (; n + V::kDotCols <= t.cols; n += V::kDotCols) Tile<R, V::kDotCols, Y>(t, m, n);
    for (; n < t.cols; ++n) Tile<R, 1, Y>(t, m, n);
  }

  template <typename Y>
  static void All(const FloatTile& t) {
    int64_t m = 0;
    for (; m + V::kDotRows <= t.rows; m += V::kDotRows) Rows<V::kDotRows, Y>(t, m);
    for (; m < t.rows; ++m) Rows<1, Y>(t, m);
  }

  static void Run(const FloatTile& t, bool bf16_out) {
    if (bf16_out) {
      All<uint16_t>(t);
    } else {
      All<float>(t);
    }
  }
};

}  // namespace intermix::cpu
