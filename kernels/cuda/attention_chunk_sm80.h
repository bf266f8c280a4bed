// One chunk of positions for one tile of rows, on mma.sync: scores, mask and maxima, weights, and
// weights times values. Fragments follow the PTX ISA, "Matrix Fragments for mma.m16n8k16" and
// "ldmatrix". Device code.
#pragma once

#include "kernels/cuda/attention_types.h"

namespace intermix::cuda {

// scores = q . k^T for the warp's rows and positions.
template <typename S>
__device__ void score_chunk(const ThreadPlace& at, const TileMemory<S>& shared,
                            float (&scores)[S::kWarpRowTiles][S::kScoreTiles][4]) {
#pragma unroll
  for (int m = 0; m < S::kWarpRowTiles; ++m) {
#pragma unroll
    for (int n = 0; n < S::kScoreTiles; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) scores[m][n][i] = 0.0f;
    }
  }
  // Lane i's row of the four 8x8 matrices (PTX ISA, "ldmatrix"): rows 0-7, 8-15, then the next 8
  // columns for q; columns 0-7, 8-15, then the next 8 positions for k.
  const uint16_t* q = shared.q + at.lane / 16 * 8 +
                      (at.row_warp * S::kWarpRowTiles * 16 + at.lane % 16) * S::kStride;
  const int32_t position = at.column_warp * S::kScoreTiles * 8 + at.lane / 16 * 8 + at.lane % 8;
  const uint16_t* k = shared.k + position * S::kStride + at.lane / 8 % 2 * 8;
#pragma unroll
  for (int d = 0; d < S::kDim; d += 16) {
    uint32_t a[S::kWarpRowTiles][4];
#pragma unroll
    for (int m = 0; m < S::kWarpRowTiles; ++m) ldmatrix_x4(a[m], q + m * 16 * S::kStride + d);
#pragma unroll
    for (int n = 0; n < S::kScoreTiles; n += 2) {
      uint32_t b[4];
      ldmatrix_x4(b, k + n * 8 * S::kStride + d);
#pragma unroll
      for (int m = 0; m < S::kWarpRowTiles; ++m) {
        mma_m16n8k16_bf16(scores[m][n], a[m], {b[0], b[1]});
        mma_m16n8k16_bf16(scores[m][n + 1], a[m], {b[2], b[3]});
      }
    }
  }
}

// Scales the scores, masks positions after a row's own, and leaves the warp's row maxima in shared
// memory.
template <typename S>
__device__ void mask_and_max(const AttentionParams& p, const ThreadPlace& at, int32_t chunk,
                             float (&scores)[S::kWarpRowTiles][S::kScoreTiles][4],
                             TileMemory<S>& shared) {
  const int32_t first = chunk * kChunk + at.column_warp * S::kScoreTiles * 8 + at.lane % 4 * 2;
  const bool masked = last_position(chunk) > shared.tile.min_position;
#pragma unroll
  for (int m = 0; m < S::kWarpRowTiles; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int32_t row = fragment_row<S>(at, m, half);
      const int32_t last = masked ? shared.positions[row] : shared.tile.max_position;
      float max = -infinity();
#pragma unroll
      for (int n = 0; n < S::kScoreTiles; ++n) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          float& score = scores[m][n][half * 2 + i];
          score = first + n * 8 + i > last ? -infinity() : mul_rn(score, p.scale_log2e);
          max = score > max ? score : max;
        }
      }
#pragma unroll
      for (int mask = 1; mask <= 2; mask *= 2) {
        const float other = shfl_xor_f32(max, mask);
        max = other > max ? other : max;
      }
      if (at.lane % 4 == 0) shared.maxima[at.column_warp][row] = max;
    }
  }
}

// Moves the running maxima on, rescales the output and writes the chunk's weights.
template <typename S>
__device__ void weigh_chunk(const ThreadPlace& at,
                            const float (&scores)[S::kWarpRowTiles][S::kScoreTiles][4],
                            Partial<S>& part, TileMemory<S>& shared) {
  const int32_t column = at.column_warp * S::kScoreTiles * 8 + at.lane % 4 * 2;
#pragma unroll
  for (int m = 0; m < S::kWarpRowTiles; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int32_t row = fragment_row<S>(at, m, half);
      const float before = part.max[m][half];
      float max = before;
#pragma unroll
      for (int w = 0; w < S::kColumnWarps; ++w) {
        max = shared.maxima[w][row] > max ? shared.maxima[w][row] : max;
      }
      part.max[m][half] = max;
      const float shift = finite_shift(max);
      const float factor = exp2_nonpositive(add_rn(before, -shift));
#pragma unroll
      for (int n = 0; n <= S::kOutTiles; ++n) {
        part.out[m][n][half * 2] = mul_rn(part.out[m][n][half * 2], factor);
        part.out[m][n][half * 2 + 1] = mul_rn(part.out[m][n][half * 2 + 1], factor);
      }
#pragma unroll
      for (int n = 0; n < S::kScoreTiles; ++n) {
        const float low = exp2_nonpositive(add_rn(scores[m][n][half * 2], -shift));
        const float high = exp2_nonpositive(add_rn(scores[m][n][half * 2 + 1], -shift));
        *reinterpret_cast<uint32_t*>(shared.weights + row * S::kWeightStride + column + n * 8) =
            pack_bf16(low, high);
      }
    }
  }
}

// part.out += weights . v for the warp's rows and columns, and the sum of the weights.
template <typename S>
__device__ void accumulate_chunk(const ThreadPlace& at, const TileMemory<S>& shared,
                                 Partial<S>& part) {
  const uint16_t* weights = shared.weights + at.lane / 16 * 8 +
                            (at.row_warp * S::kWarpRowTiles * 16 + at.lane % 16) * S::kWeightStride;
  const uint16_t* v = shared.v + at.lane * S::kStride + at.column_warp * S::kOutTiles * 8;
  const uint32_t ones[2] = {kOnes, kOnes};
#pragma unroll
  for (int t = 0; t < kChunk; t += 32) {
    uint32_t a[S::kWarpRowTiles][2][4];
#pragma unroll
    for (int m = 0; m < S::kWarpRowTiles; ++m) {
      ldmatrix_x4(a[m][0], weights + m * 16 * S::kWeightStride + t);
      ldmatrix_x4(a[m][1], weights + m * 16 * S::kWeightStride + t + 16);
      mma_m16n8k16_bf16(part.out[m][S::kOutTiles], a[m][0], ones);
      mma_m16n8k16_bf16(part.out[m][S::kOutTiles], a[m][1], ones);
    }
#pragma unroll
    for (int n = 0; n < S::kOutTiles; ++n) {
      uint32_t b[4];  // 32 positions x 8 columns
      ldmatrix_x4_trans(b, v + t * S::kStride + n * 8);
#pragma unroll
      for (int m = 0; m < S::kWarpRowTiles; ++m) {
        mma_m16n8k16_bf16(part.out[m][n], a[m][0], {b[0], b[1]});
        mma_m16n8k16_bf16(part.out[m][n], a[m][1], {b[2], b[3]});
      }
    }
  }
}

}  // namespace intermix::cuda
