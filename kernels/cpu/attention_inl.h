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

  // scores[q][t] = LaneDot(q, k[t]) * scale for Q queries and T positions. Flattened: a call in the
  // loop would keep the sums in memory.
  template <int Q, int T>
  [[gnu::flatten]] static void ScoreTile(const AttendSplit& s, int query, int t) {
    V sums[Q][T];
    Unroll<Q>([&](auto r) { Unroll<T>([&](auto i) { sums[r][i] = V::Set(0.0f); }); });
    const float* q = s.q + query * s.q_stride;
    ForLanes(s.head_dim, [&](int64_t d, auto e) {
      V k[T];
      Unroll<T>([&](auto i) { k[i] = V::Load(s.k + s.offsets[t + i] + d, e); });
      Unroll<Q>([&](auto r) {
        const V a = V::Load(q + r * s.q_stride + d, e);
        Unroll<T>([&](auto i) { sums[r][i] = V::Fma(a, k[i], sums[r][i]); });
      });
    });
    V::SumTile(sums, s.scale, s.scores + query * kSplit + t, kSplit);
  }

  template <int Q>
  static void Scores(const AttendSplit& s, int query) {
    int t = 0;
    for (; t + kCols <= s.count; t += kCols) ScoreTile<Q, kCols>(s, query, t);
    for (; t < s.count; ++t) ScoreTile<Q, 1>(s, query, t);
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

  // out[q][d .. d + 16 * D) = sum over t ascending of fma(p[q][t], v[t][d], out), for Q queries.
  template <int Q, int D, typename Extent>
  static void ValueTile(const AttendSplit& s, int query, int64_t d, Extent e) {
    V sums[Q][D];
    Unroll<Q>([&](auto r) { Unroll<D>([&](auto i) { sums[r][i] = V::Set(0.0f); }); });
    const float* p = s.scores + query * kSplit;
    for (int t = 0; t < s.count; ++t) {
      const uint16_t* row = s.v + s.offsets[t] + d;
      V v[D];
      Unroll<D>([&](auto i) { v[i] = V::Load(row + 16 * i, e); });
      Unroll<Q>([&](auto r) {
        const V weight = V::Set(p[r * kSplit + t]);
        Unroll<D>([&](auto i) { sums[r][i] = V::Fma(weight, v[i], sums[r][i]); });
      });
    }
    Unroll<Q>([&](auto r) {
      float* out = s.out + (query + r) * s.head_dim + d;
      Unroll<D>([&](auto i) { sums[r][i].Store(out + 16 * i, e); });
    });
  }

  template <int Q>
  static void Values(const AttendSplit& s, int query) {
    constexpr int kStep = 16 * V::kValueVectors;
    int64_t d = 0;
    for (; d + kStep <= s.head_dim; d += kStep) {
      ValueTile<Q, V::kValueVectors>(s, query, d, Full());
    }
    for (; d + 16 <= s.head_dim; d += 16) ValueTile<Q, 1>(s, query, d, Full());
    if (d < s.head_dim) ValueTile<Q, 1>(s, query, d, Tail{static_cast<int>(s.head_dim - d)});
  }

  static void Attend(const AttendSplit& s) {
    int query = 0;
    for (; query + kRows <= s.num_queries; query += kRows) Scores<kRows>(s, query);
    for (; query < s.num_queries; ++query) Scores<1>(s, query);
    for (query = 0; query < s.num_queries; ++query) {
      Softmax(s.scores + query * kSplit, s.count, s.max + query, s.sum + query);
    }
    constexpr int kQueries = V::kValueQueries;
    for (query = 0; query + kQueries <= s.num_queries; query += kQueries) {
      Values<kQueries>(s, query);
    }
    for (; query < s.num_queries; ++query) Values<1>(s, query);
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
