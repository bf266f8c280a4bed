// One chunk of positions for one tile of rows, on mma.sync: scores, mask and maxima, weights, and
// weights times values. Fragments follow the PTX ISA, "Matrix Fragments for mma.m16n8k16" and
// "ldmatrix". Device code.
#pragma once

#include "kernels/cuda/attention_fragments_sm80.h"
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
  // columns for q; bytes 0-15, 16-31, then the next 8 positions for k.
  const uint16_t* q = shared.q + at.lane / 16 * 8 +
                      (at.row_warp * S::kWarpRowTiles * 16 + at.lane % 16) * S::kStride;
  const int32_t position = at.column_warp * S::kScoreTiles * 8 + at.lane / 16 * 8 + at.lane % 8;
  const typename S::Element* k =
      shared.k + position * S::kCacheStride + at.lane / 8 % 2 * S::kPiece;
  constexpr int kSteps = S::kPiece / 8;  // of 16 elements in 32 bytes
#pragma unroll
  for (int d = 0; d < S::kDim; d += 16 * kSteps) {
    uint32_t a[S::kWarpRowTiles][kSteps][4];
#pragma unroll
    for (int m = 0; m < S::kWarpRowTiles; ++m) {
#pragma unroll
      for (int step = 0; step < kSteps; ++step) {
        ldmatrix_x4(a[m][step], q + m * 16 * S::kStride + d + step * 16);
      }
    }
#pragma unroll
    for (int n = 0; n < S::kScoreTiles; n += 2) {
      uint32_t bits[4];
      ldmatrix_x4(bits, k + n * 8 * S::kCacheStride + d);
      score_tiles<S>(a, bits, n, scores);
    }
  }
}

// Scales the scores, masks positions after a row's own, and leaves the warp's row maxima in shared
// memory.
template <typename S>
__device__ void mask_and_max(const AttentionParams& p, const ThreadPlace& at, int32_t chunk,
                             int32_t buffer, float (&scores)[S::kWarpRowTiles][S::kScoreTiles][4],
                             TileMemory<S>& shared) {
  const int32_t column = at.column_warp * S::kScoreTiles * 8 + at.lane % 4 * 2;
  const int32_t first = chunk * kChunk + column;
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
          if constexpr (S::kScaled) {
            score = mul_rn(score, shared.scaled.k[buffer][column + n * 8 + i]);
          }
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

// A weight times its value's scale; a position that the row does not see may have any scale.
__device__ inline float scaled_weight(float score, float weight, float scale) {
  return score == -infinity() ? 0.0f : mul_rn(weight, scale);
}

// Moves the running maxima on, rescales the output and writes the chunk's weights.
template <typename S>
__device__ void weigh_chunk(const ThreadPlace& at, int32_t buffer,
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
        const int32_t to = row * S::kWeightStride + column + n * 8;
        *reinterpret_cast<uint32_t*>(shared.weights + to) = pack_bf16(low, high);
        if constexpr (S::kScaled) {
          const float* scales = shared.scaled.v[buffer] + column + n * 8;
          *reinterpret_cast<uint32_t*>(shared.scaled.weights + to) =
              pack_bf16(scaled_weight(scores[m][n][half * 2], low, scales[0]),
                        scaled_weight(scores[m][n][half * 2 + 1], high, scales[1]));
        }
      }
    }
  }
}

// The warp's weights of 32 positions as fragments.
template <typename S>
__device__ void load_weights(const uint16_t* weights, uint32_t (&a)[S::kWarpRowTiles][2][4]) {
#pragma unroll
  for (int m = 0; m < S::kWarpRowTiles; ++m) {
    ldmatrix_x4(a[m][0], weights + m * 16 * S::kWeightStride);
    ldmatrix_x4(a[m][1], weights + m * 16 * S::kWeightStride + 16);
  }
}

// One column tile of 32 positions.  low: values of the first 16, high: of the others
template <typename S>
__device__ void add_tile(const uint32_t (&a)[S::kWarpRowTiles][2][4], const uint32_t (&low)[2],
                         const uint32_t (&high)[2], int n, Partial<S>& part) {
#pragma unroll
  for (int m = 0; m < S::kWarpRowTiles; ++m) {
    mma_m16n8k16_bf16(part.out[m][n], a[m][0], low);
    mma_m16n8k16_bf16(part.out[m][n], a[m][1], high);
  }
}

// part.out += weights . v for the warp's rows and columns, and the sum of the weights.
template <typename S>
__device__ void accumulate_chunk(const ThreadPlace& at, const TileMemory<S>& shared,
                                 Partial<S>& part) {
  const int32_t row =
      at.lane / 16 * 8 + (at.row_warp * S::kWarpRowTiles * 16 + at.lane % 16) * S::kWeightStride;
  const typename S::Element* v =
      shared.v + at.lane * S::kCacheStride + at.column_warp * S::kOutTiles * 8;
  const uint32_t ones[2] = {kOnes, kOnes};
#pragma unroll
  for (int t = 0; t < kChunk; t += 32) {
    uint32_t a[S::kWarpRowTiles][2][4];
    load_weights<S>(shared.weights + row + t, a);
    add_tile<S>(a, ones, ones, S::kOutTiles, part);
    if constexpr (S::kScaled) {
      load_weights<S>(shared.scaled.weights + row + t, a);
#pragma unroll
      for (int n = 0; n < S::kOutTiles; n += 2) {
        uint32_t bits[4];  // 32 positions x 16 columns, two neighbouring ones in a 16-bit element
        ldmatrix_x4_trans(bits, v + t * S::kCacheStride + n * 8);
        const EvenOdd b[4] = {widen_s8(bits[0]), widen_s8(bits[1]), widen_s8(bits[2]),
                              widen_s8(bits[3])};
        add_tile<S>(a, {b[0].even, b[1].even}, {b[2].even, b[3].even}, n, part);
        add_tile<S>(a, {b[0].odd, b[1].odd}, {b[2].odd, b[3].odd}, n + 1, part);
      }
    } else {
#pragma unroll
      for (int n = 0; n < S::kOutTiles; ++n) {
        uint32_t b[4];  // 32 positions x 8 columns
        ldmatrix_x4_trans(b, v + t * S::kCacheStride + n * 8);
        add_tile<S>(a, {b[0], b[1]}, {b[2], b[3]}, n, part);
      }
    }
  }
}

}  // namespace intermix::cuda
