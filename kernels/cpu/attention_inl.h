// One split of attention, and the merge of two (kernels/backend.h, PagedAttention). Included by
// row_kernels_inl.h only; V is a lane type.
#pragma once

#include <cstdint>

#include "kernels/cpu/lanes.h"
#include "kernels/cpu/row_kernels.h"

namespace intermix::cpu {

template <typename V>
struct AttentionOps {
  static constexpr int kSplit = 256;  // kAttentionSplit; cpu_attention.cc asserts it
  static constexpr int kRows = V::kDotRows;
  static constexpr int kCols = V::kDotCols;

  // scores[q][t] = LaneDot(q, k[t]) * factor for Q queries and T positions. Flattened: a call in
  // the loop would keep the sums in memory. Element: what the cache holds.
  template <typename Element, int Q, int T>
  [[gnu::flatten]] static void ScoreTile(const AttendSplit& s, float factor, int query, int t) {
    V sums[Q][T];
    Unroll<Q>([&](auto r) { Unroll<T>([&](auto i) { sums[r][i] = V::Set(0.0f); }); });
    const float* const* q = s.q + query;
    const void* const* keys = s.rows + t;
    ForLanes(s.head_dim, [&](int64_t d, auto e) {
      V k[T];
      Unroll<T>([&](auto i) { k[i] = V::Load(static_cast<const Element*>(keys[i]) + d, e); });
      Unroll<Q>([&](auto r) {
        const V a = V::Load(q[r] + d, e);
        Unroll<T>([&](auto i) { sums[r][i] = V::Fma(a, k[i], sums[r][i]); });
      });
    });
    V::SumTile(sums, factor, s.scores + query * kSplit + t, kSplit);
  }

  // Asks for elements [d, d + n) of the row that is read kRowsAhead rows later, to the second
  // cache: asking for the first one's takes too many of the few misses that it can wait for.
  template <typename Element>
  [[gnu::always_inline]] static void PrefetchAhead(const void* const* row, int64_t d, int64_t n) {
    constexpr int64_t kLine = 64 / sizeof(Element);
    const auto* ahead = static_cast<const Element*>(row[kRowsAhead]) + d;
    for (int64_t i = 0; i < n; i += kLine) __builtin_prefetch(ahead + i, 0, 2);
  }

  template <typename Element, int Q>
  static void Scores(const AttendSplit& s, int query, int begin, int end) {
    // Of a quantised cache these are the products alone: scales join them in the softmax.
    const float factor = s.k_scales == nullptr ? s.scale : 1.0f;
    int t = begin;
    for (; t + kCols <= end; t += kCols) {
      if (query == 0) {
        for (int i = t; i < t + kCols; ++i) PrefetchAhead<Element>(s.rows + i, 0, s.head_dim);
      }
      ScoreTile<Element, Q, kCols>(s, factor, query, t);
    }
    for (; t < end; ++t) ScoreTile<Element, Q, 1>(s, factor, query, t);
  }

  // x[t] = (x[t] * scales[t]) * factor
  static void Scale(const float* scales, int count, float factor, float* x) {
    const V f = V::Set(factor);
    ForLanes(count, [&](int64_t t, auto e) {
      ((V::Load(x + t, e) * V::Load(scales + t, e)) * f).Store(x + t, e);
    });
  }

  // Turns one query's scores into exp(score - max); returns max and the lane sum.
  static void Softmax(float* scores, int count, float* max, float* sum) {
    const float lowest = -__builtin_inff();
    V largest = V::Set(lowest);
    const int rounded = (count + 15) / 16 * 16;
    for (int t = count; t < rounded; ++t) scores[t] = lowest;
    for (int t = 0; t < rounded; t += 16) largest = V::Max(V::Load(scores + t, Full()), largest);
    *max = largest.Largest();
    const V m = V::Set(*max);
    V total = V::Set(0.0f);
    ForLanes(count, [&](int64_t t, auto e) {
      const V p = V::Keep((V::Load(scores + t, e) - m).Exp(), e);
      p.Store(scores + t, e);
      total = total + p;
    });
    *sum = total.Sum();
  }

  // out[q][d .. d + 16 * D) = sum over t ascending of fma(p[q][t], v[t][d], out), for Q queries and
  // positions [begin, end); from zero where begin is 0.
  template <typename Element, int Q, int D, typename Extent>
  [[gnu::flatten]] static void ValueTile(const AttendSplit& s, int query, int begin, int end,
                                         int64_t d, Extent e) {
    V sums[Q][D];
    float* out = s.out + query * s.head_dim + d;
    if (begin == 0) {
      Unroll<Q>([&](auto r) { Unroll<D>([&](auto i) { sums[r][i] = V::Set(0.0f); }); });
    } else {
      Unroll<Q>([&](auto r) {
        Unroll<D>([&](auto i) { sums[r][i] = V::Load(out + r * s.head_dim + 16 * i, e); });
      });
    }
    const float* p = s.scores + query * kSplit;
    const void* const* values = s.rows + s.count;
    const bool first = query == 0;
    for (int t = begin; t < end; ++t) {
      const auto* row = static_cast<const Element*>(values[t]) + d;
      if (first) PrefetchAhead<Element>(values + t, d, 16 * D);
      V v[D];
      Unroll<D>([&](auto i) { v[i] = V::Load(row + 16 * i, e); });
      Unroll<Q>([&](auto r) {
        const V weight = V::Set(p[r * kSplit + t]);
        Unroll<D>([&](auto i) { sums[r][i] = V::Fma(weight, v[i], sums[r][i]); });
      });
    }
    Unroll<Q>([&](auto r) {
      Unroll<D>([&](auto i) { sums[r][i].Store(out + r * s.head_dim + 16 * i, e); });
    });
  }

  template <typename Element, int Q>
  static void Values(const AttendSplit& s, int query, int begin, int end) {
    constexpr int kStep = 16 * V::kValueVectors;
    int64_t d = 0;
    for (; d + kStep <= s.head_dim; d += kStep) {
      ValueTile<Element, Q, V::kValueVectors>(s, query, begin, end, d, Full());
    }
    for (; d + 16 <= s.head_dim; d += 16) ValueTile<Element, Q, 1>(s, query, begin, end, d, Full());
    if (d < s.head_dim) {
      ValueTile<Element, Q, 1>(s, query, begin, end, d, Tail{static_cast<int>(s.head_dim - d)});
    }
  }

  template <typename Element>
  static void AllScoresOf(const AttendSplit& s, int begin, int end) {
    int query = 0;
    for (; query + kRows <= s.num_queries; query += kRows) {
      Scores<Element, kRows>(s, query, begin, end);
    }
    for (; query < s.num_queries; ++query) Scores<Element, 1>(s, query, begin, end);
  }

  static void AllScores(const AttendSplit& s, int begin, int end) {
    s.k_scales == nullptr ? AllScoresOf<uint16_t>(s, begin, end)
                          : AllScoresOf<int8_t>(s, begin, end);
  }

  static void AllSoftmax(const AttendSplit& s) {
    for (int query = 0; query < s.num_queries; ++query) {
      float* scores = s.scores + query * kSplit;
      if (s.k_scales != nullptr) Scale(s.k_scales, s.count, s.scale, scores);
      Softmax(scores, s.count, s.max + query, s.sum + query);
      if (s.v_scales != nullptr) Scale(s.v_scales, s.count, 1.0f, scores);
    }
  }

  template <typename Element>
  static void AllValuesOf(const AttendSplit& s, int begin, int end) {
    constexpr int kQueries = V::kValueQueries;
    int query = 0;
    for (; query + kQueries <= s.num_queries; query += kQueries) {
      Values<Element, kQueries>(s, query, begin, end);
    }
    for (; query < s.num_queries; ++query) Values<Element, 1>(s, query, begin, end);
  }

  static void AllValues(const AttendSplit& s, int begin, int end) {
    s.v_scales == nullptr ? AllValuesOf<uint16_t>(s, begin, end)
                          : AllValuesOf<int8_t>(s, begin, end);
  }

  static float Exp(float x) {
    float result;
    V::Set(x).Exp().Store(&result, Tail{1});
    return result;
  }

  static void Merge(float next_max, float next_sum, const float* next_out, int64_t n, float* max,
                    float* sum, float* out) {
    const float largest = next_max > *max ? next_max : *max;
    const float a = Exp(*max - largest);
    const float b = Exp(next_max - largest);
    *max = largest;
    *sum = __builtin_fmaf(*sum, a, next_sum * b);
    const V va = V::Set(a);
    const V vb = V::Set(b);
    ForLanes(n, [&](int64_t d, auto e) {
      V::Fma(V::Load(out + d, e), va, V::Load(next_out + d, e) * vb).Store(out + d, e);
    });
  }
};

}  // namespace intermix::cpu
