// What the two families of prompt kernels share. A warp has 16 rows over all positions of a chunk,
// so scores, maxima and weights stay in registers: the fragments of q . k^T are those that p . V
// takes. The sum of a row's weights is one more column of V, all ones: it has the order of the
// other columns and is of the rounded weights. Device code.
#pragma once

#include "kernels/cuda/attention_fragments_sm80.h"
#include "kernels/cuda/attention_softmax.h"
#include "kernels/cuda/attention_unfinite.h"

namespace intermix::cuda {

template <int kHeadDim, typename Element>
struct PromptShape : CacheShape<kHeadDim, Element> {
  static constexpr int kTiles = kHeadDim / 8;  // of 8 columns
  static constexpr int kScoreTiles = kChunk / 8;
};

template <typename S>
using Scores = float[S::kScoreTiles][4];
using Weights = uint32_t[kChunk / 16][4];  // fragments of 16 positions

// Scales of an int8 cache and the mask join the scores; moves the maxima on.
//   kMasked  some of the rows may not see all positions
//   factors  what the sums are then multiplied by
template <bool kMasked, typename S>
__device__ void raise_maxima(const AttentionParams& p, const float* k_scales, int32_t chunk,
                             const WarpRows& rows, Scores<S>& scores, Partial<S::kTiles>& part,
                             float (&factors)[2]) {
  const int32_t column = lane_id() % 4 * 2;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float max[2] = {-infinity(), -infinity()};  // two chains: each waits for its own last one
#pragma unroll
    for (int n = 0; n < S::kScoreTiles; ++n) {
      float(&pair)[4] = scores[n];
#pragma unroll
      for (int i = half * 2; i < half * 2 + 2; ++i) {
        const int32_t position = column + n * 8 + i % 2;
        if constexpr (S::kScaled) pair[i] = mul_rn(pair[i], k_scales[position]);
        if (kMasked && chunk * kChunk + position > rows.positions[half]) pair[i] = -infinity();
      }
      max[n % 2] = max_nan(max[n % 2], max_nan(pair[half * 2], pair[half * 2 + 1]));
    }
    factors[half] = raise_max(max_of_row(max_nan(max[0], max[1])), p.scale_log2e, part.max[half]);
  }
}

// Scores become weights. Of an int8 cache they are then times v's scales.
//   kSummed  their sum is added
template <bool kMasked, bool kSummed, typename S>
__device__ void weigh_chunk(const AttentionParams& p, const float* v_scales, int32_t chunk,
                            const WarpRows& rows, const Scores<S>& scores, Weights& weights,
                            Partial<S::kTiles>& part) {
  const int32_t column = lane_id() % 4 * 2;
#pragma unroll
  for (int t = 0; t < kChunk / 16; ++t) {
    float scaled[4][2];
#pragma unroll
    for (int j = 0; j < 4; ++j) {  // of a fragment: rows of half j % 2, tile j / 2
      const int half = j % 2;
      const int n = t * 2 + j / 2;
      float exact[2];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        exact[i] = weight(scores[n][half * 2 + i], p.scale_log2e, finite_shift(part.max[half]));
        if constexpr (S::kScaled) {
          const int32_t position = column + n * 8 + i;
          const bool seen = !kMasked || chunk * kChunk + position <= rows.positions[half];
          scaled[j][i] = seen ? mul_rn(exact[i], v_scales[position]) : 0.0f;
        }
      }
      weights[t][j] = pack_bf16(exact[0], exact[1]);
    }
    if constexpr (kSummed) add_weights(weights[t], part);
    if constexpr (S::kScaled) {
#pragma unroll
      for (int j = 0; j < 4; ++j) weights[t][j] = pack_bf16(scaled[j][0], scaled[j][1]);
    }
  }
}

// part.out += weights . v on mma.sync; returns what keep_finite found of a masked chunk.
//   values  of the chunk: at(position, column) in shared memory
template <bool kMasked, typename S, typename Values>
__device__ uint32_t accumulate_chunk(const Values& values, const Weights& weights,
                                     Partial<S::kTiles>& part) {
  uint32_t found = 0;
#pragma unroll
  for (int t = 0; t < kChunk / 16; ++t) {
#pragma unroll
    for (int n = 0; n < S::kTiles; n += 2) {
      TilePair pair =
          load_value_pair(values.at(t * 16 + lane_id() % 16, n * 8 + lane_id() / 16 * 8));
      if constexpr (kMasked && !S::kScaled) keep_finite(pair.b, found);
      mma_m16n8k16_bf16(part.out[n], weights[t], pair.b[0]);
      mma_m16n8k16_bf16(part.out[n + 1], weights[t], pair.b[1]);
    }
  }
  return found;
}

// Adds what keep_finite took out.
//   of_warp  [16 rows, 16]: where the warp puts weights of 16 positions
template <typename S, typename Values>
__device__ void restore_unfinite(const Weights& weights, const Values& values, int32_t chunk,
                                 const WarpRows& rows, uint16_t* of_warp,
                                 Partial<S::kTiles>& part) {
#pragma unroll
  for (int t = 0; t < kChunk / 16; ++t) {
    sync_warp();
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int32_t row = j % 2 * 8 + lane_id() / 4;
      const int32_t column = j / 2 * 8 + lane_id() % 4 * 2;
      *reinterpret_cast<uint32_t*>(of_warp + row * 16 + column) = weights[t][j];
    }
    sync_warp();
    add_unfinite(of_warp, 16, values, t * 16, chunk * kChunk, rows, part);
  }
}

}  // namespace intermix::cuda
