// What the parts of the attention kernel share: its parameters, how a block's four warps cut a tile
// of rows, the block's shared memory, a thread's accumulators, and the softmax arithmetic. Device
// code.
#pragma once

#include <cstdint>

#include "kernels/cuda/attention.h"
#include "kernels/cuda/device_math.h"

namespace intermix::cuda {

inline constexpr int kWarps = 4;
inline constexpr int kThreads = kWarps * kWarp;
inline constexpr int kChunk = 64;  // positions at a time; the order of a row's sums depends on it
inline constexpr int kChunksPerSplit = kAttentionSplit / kChunk;
inline constexpr int kMaxKvHeads = static_cast<int>(kMaxHeads);
inline constexpr int kPad = 8;  // elements after a row in shared memory: ldmatrix has no conflicts
inline constexpr uint32_t kOnes = 0x3F803F80u;  // two bfloat16

// The query heads of each K/V head that has any.
struct HeadGroups {
  uint16_t heads[kMaxHeads];  // group after group
  uint16_t starts[kMaxKvHeads + 1];
  uint16_t kv_heads[kMaxKvHeads];  // of each group
};

struct AttentionParams {
  const float* q;
  const void* k;  // of the tile's Element
  const void* v;
  const float* k_scales;  // null where the cache is bfloat16
  const float* v_scales;
  uint16_t* out;
  const int32_t* positions;
  const int32_t* query_starts;
  const int32_t* block_tables;
  float* partials;   // [splits][tokens * num_heads][head_dim]; null: each block walks all splits
  float2* stats;     // [splits][tokens * num_heads]: maximum and sum
  int64_t q_stride;  // elements
  int64_t out_stride;
  int64_t table_stride;
  int32_t block_pieces;  // strides of the cache, in pieces of 16 bytes
  int32_t head_pieces;
  int32_t position_pieces;
  int32_t block_scales;  // strides of the scales, elements; a head's positions are contiguous
  int32_t head_scales;
  int32_t tokens;
  int32_t sequences;
  int32_t num_heads;
  int32_t head_dim;
  int32_t block_size;
  float scale_log2e;  // scores are exponents of 2
};

struct AttentionLaunch {
  AttentionParams p;
  HeadGroups groups;
};
static_assert(sizeof(AttentionLaunch) <= 4096, "kernel parameters exceed 4 KB");

// 2^x for x <= 0; 0 below -125, NaN for NaN. Relative error below 2e-7.
__device__ inline float exp2_nonpositive(float x) {
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23
  const float shifted = add_rn(x, kRound);
  const float r = add_rn(x, -add_rn(shifted, -kRound));
  float p = 0x1.5bba14p-10f;  // minimax for 2^r on |r| <= 1/2
  p = fma_rn(p, r, 0x1.3cea88p-7f);
  p = fma_rn(p, r, 0x1.c6b752p-5f);
  p = fma_rn(p, r, 0x1.ebf9bcp-3f);
  p = fma_rn(p, r, 0x1.62e42ap-1f);
  p = fma_rn(p, r, 1.0f);
  if (!(x >= -125.0f)) return x != x ? x : 0.0f;
  return float_of_bits(bits_of_float(p) + (bits_of_float(shifted) << 23));
}

// What a row's maximum is subtracted as: 0 where all scores so far are -infinity.
__device__ inline float finite_shift(float max) { return max == -infinity() ? 0.0f : max; }

// The merge of two splits (Backend::PagedAttention): both parts times their factor.
struct MergeFactors {
  float max;
  float total;
  float next;
};
__device__ inline MergeFactors merge_factors(float total_max, float next_max) {
  const float max = next_max > total_max ? next_max : total_max;
  const float shift = finite_shift(max);
  return {max, exp2_nonpositive(add_rn(total_max, -shift)),
          exp2_nonpositive(add_rn(next_max, -shift))};
}
__device__ inline float merged(const MergeFactors& factors, float total, float next) {
  return fma_rn(total, factors.total, mul_rn(next, factors.next));
}

// bfloat16(out / sum); adding +0 makes both zeros one, whatever chunks of zeros were added.
__device__ inline uint32_t normalized_pair(float low, float high, float sum) {
  return pack_bf16(add_rn(div_rn(low, sum), 0.0f), add_rn(div_rn(high, sum), 0.0f));
}

// How the four warps cut the tile's products. CacheElement: uint16_t for bfloat16, or int8_t.
template <int kHeadDim, int kRowTiles, typename CacheElement>
struct TileShape {
  using Element = CacheElement;
  static constexpr bool kScaled = sizeof(Element) == 1;  // positions have scales
  static constexpr int kPiece = 16 / sizeof(Element);    // elements of 16 bytes of the cache
  static constexpr int kRows = 16 * kRowTiles;
  static constexpr bool kSplits = kRowTiles == 1;  // may leave splits to others
  static constexpr int kRowWarps = kRowTiles == 1 ? 1 : 2;
  static constexpr int kColumnWarps = kWarps / kRowWarps;
  static constexpr int kWarpRowTiles = kRowTiles / kRowWarps;    // of 16 rows
  static constexpr int kScoreTiles = kChunk / 8 / kColumnWarps;  // of 8 positions
  static constexpr int kOutTiles = kHeadDim / 8 / kColumnWarps;  // of 8 columns
  static constexpr int kDim = kHeadDim;                          // head_dim, padded with zeros
  static constexpr int kStride = kHeadDim + kPad;                // elements of a row of q
  static constexpr int kCacheStride = kHeadDim + kPiece;         // of a row of k or v
  static constexpr int kWeightStride = kChunk + kPad;            // of a row of weights
  static constexpr int kQueryPieces = kHeadDim / 8;              // of 8 elements in a row of q
  static constexpr int kPieces = kHeadDim / kPiece;              // of 16 bytes in a row of k or v
};

// Which rows of which sequence this block has.
struct Tile {
  int32_t sequence;
  int32_t first_token;  // of the sequence
  int32_t first_row;    // of the sequence's rows (token, head of the group)
  int32_t rows;         // 0: none
  int32_t group_heads;
  int32_t min_position;  // of the rows
  int32_t max_position;
};

// What a tile over an int8 cache has besides: the chunk's scales, 0 beyond the last position, and
// the weights times v's scales.
template <typename S, bool kScaled = S::kScaled>
struct ScaleMemory {
  alignas(16) uint16_t weights[S::kRows * S::kWeightStride];
  float k[2][kChunk];
  float v[2][kChunk];
};
template <typename S>
struct ScaleMemory<S, false> {};

// The block's shared memory.
template <typename S>
struct TileMemory {
  alignas(16) uint16_t q[S::kRows * S::kStride];
  alignas(16) typename S::Element k[kChunk * S::kCacheStride];
  alignas(16) typename S::Element v[kChunk * S::kCacheStride];
  alignas(16) uint16_t weights[S::kRows * S::kWeightStride];
  ScaleMemory<S> scaled;
  int32_t pieces[2][kChunk];  // where the chunk's positions are in the cache; -1 beyond the last
  float maxima[S::kColumnWarps][S::kRows];
  int32_t positions[S::kRows];  // of each row; -1: no such row
  int32_t tokens[S::kRows];
  int32_t heads[S::kRows];
  int32_t found[kWarps];
  Tile tile;
};

// A thread's part of a softmax over some positions: rows 16 t + lane / 4 (+ 8) of its row tiles.
template <typename S>
struct Partial {
  float max[S::kWarpRowTiles][2];
  float out[S::kWarpRowTiles][S::kOutTiles + 1][4];  // mma fragments; the last: the sum of weights
};

__device__ inline int32_t last_position(int32_t chunk) { return chunk * kChunk + kChunk - 1; }

struct ThreadPlace {
  int32_t lane;
  int32_t row_warp;
  int32_t column_warp;
};
template <typename S>
__device__ ThreadPlace thread_place() {
  const auto warp = static_cast<int32_t>(threadIdx.x / kWarp);
  return {static_cast<int32_t>(threadIdx.x % kWarp), warp / S::kColumnWarps,
          warp % S::kColumnWarps};
}

// The tile's row of a thread's fragment.
template <typename S>
__device__ int32_t fragment_row(const ThreadPlace& at, int row_tile, int half) {
  return (at.row_warp * S::kWarpRowTiles + row_tile) * 16 + half * 8 + at.lane / 4;
}

}  // namespace intermix::cuda
