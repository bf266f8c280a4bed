// The softmax arithmetic of attention, which gives a row the same bits in every kernel: running
// maxima within a split, weights, and the merge of splits. Device code.
//
// 2^x is the device's own: exactly 1 of 0 and 0 of -infinity, so that a chunk of masked positions
// changes nothing.
#pragma once

#include "kernels/cuda/attention_types.h"

namespace intermix::cuda {

template <int kTiles>
__device__ void clear(Partial<kTiles>& part) {
  part.max[0] = part.max[1] = -infinity();
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    part.sum[i] = 0.0f;
#pragma unroll
    for (int n = 0; n < kTiles; ++n) part.out[n][i] = 0.0f;
  }
}

// The larger of what the four threads of a row have.
__device__ inline float max_of_row(float max) {
  max = max_nan(max, shfl_xor_f32(max, 1));
  return max_nan(max, shfl_xor_f32(max, 2));
}

// What a row's maximum is subtracted as: 0 where all scores so far are -infinity.
__device__ inline float finite_shift(float max) { return max == -infinity() ? 0.0f : max; }

// Moves a row's maximum on by a chunk's largest score, and returns what the sums so far are
// multiplied by.
__device__ inline float raise_max(float score, float scale_log2e, float& max) {
  const float before = max;
  max = max_nan(before, mul_rn(score, scale_log2e));
  return exp2_approx(add_rn(before, -finite_shift(max)));
}

__device__ inline float weight(float score, float scale_log2e, float shift) {
  return exp2_approx(fma_rn(score, scale_log2e, -shift));
}

// Adds the weights of 16 positions to their sum: the product with a column of ones.
template <int kTiles>
__device__ void add_weights(const uint32_t (&weights)[4], Partial<kTiles>& part) {
  constexpr uint32_t kTwoOnes = 0x3F803F80u;
  mma_m16n8k16_bf16(part.sum, weights, {kTwoOnes, kTwoOnes});
}

template <int kTiles>
__device__ void rescale_sum(const float (&factors)[2], Partial<kTiles>& part) {
#pragma unroll
  for (int i = 0; i < 4; ++i) part.sum[i] = mul_rn(part.sum[i], factors[i / 2]);
}
template <int kTiles>
__device__ void rescale_out(const float (&factors)[2], Partial<kTiles>& part) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
#pragma unroll
    for (int n = 0; n < kTiles; ++n) part.out[n][i] = mul_rn(part.out[n][i], factors[i / 2]);
  }
}
template <int kTiles>
__device__ void rescale(const float (&factors)[2], Partial<kTiles>& part) {
  rescale_sum(factors, part);
  rescale_out(factors, part);
}

// The merge of two splits (Backend::PagedAttention): both parts times their factor.
struct MergeFactors {
  float max;
  float total;
  float next;
};
__device__ inline MergeFactors merge_factors(float total_max, float next_max) {
  const float max = max_nan(total_max, next_max);
  const float shift = finite_shift(max);
  return {max, exp2_approx(add_rn(total_max, -shift)), exp2_approx(add_rn(next_max, -shift))};
}
__device__ inline float merged(const MergeFactors& factors, float total, float next) {
  return fma_rn(total, factors.total, mul_rn(next, factors.next));
}

// Merges a finished split into the total of its first column tiles, and leaves the factors for
// others. A row that ends before the split has factors 1 and 0.
template <int kTiles, int kTotalTiles>
__device__ void merge_split(const Partial<kTiles>& part, Partial<kTotalTiles>& total,
                            MergeFactors (&factors)[2]) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    factors[half] = merge_factors(total.max[half], part.max[half]);
    total.max[half] = factors[half].max;
#pragma unroll
    for (int i = half * 2; i < half * 2 + 2; ++i) {
      total.sum[i] = merged(factors[half], total.sum[i], part.sum[i]);
#pragma unroll
      for (int n = 0; n < kTotalTiles; ++n) {
        total.out[n][i] = merged(factors[half], total.out[n][i], part.out[n][i]);
      }
    }
  }
}

// bfloat16(out / sum); adding +0 makes both zeros one, whatever chunks of zeros were added.
__device__ inline uint32_t normalized_pair(float low, float high, float sum) {
  return pack_bf16(add_rn(div_rn(low, sum), 0.0f), add_rn(div_rn(high, sum), 0.0f));
}

}  // namespace intermix::cuda
