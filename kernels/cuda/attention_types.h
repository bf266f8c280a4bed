// What the attention kernels share: their parameters, the tile of rows that a block has, and what a
// warp accumulates for 16 of them. Device code.
#pragma once

#include <cstdint>

#include "kernels/cuda/attention.h"
#include "kernels/cuda/device_math.h"

namespace intermix::cuda {

inline constexpr int kWarps = 8;
inline constexpr int kThreads = kWarps * kWarp;
inline constexpr int kChunk = 64;  // positions at a time; the order of a row's sums depends on it
inline constexpr int kChunksPerSplit = kAttentionSplit / kChunk;
inline constexpr int kWarpRows = 16;  // of a tile of mma
inline constexpr int kMaxKvHeads = static_cast<int>(kMaxHeads);

// The query heads of each K/V head that has any.
struct HeadGroups {
  uint16_t heads[kMaxHeads];  // group after group
  uint16_t starts[kMaxKvHeads + 1];
  uint16_t kv_heads[kMaxKvHeads];  // of each group
};

struct AttentionParams {
  const float* q;
  const void* k;  // of the cache's element
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
  int32_t num_groups;
  int32_t head_dim;
  int32_t block_size;
  uint64_t block_reciprocal;  // 2^32 / block_size, rounded up: position * it >> 32 divides
  float scale_log2e;          // times it, scores are exponents of 2
};

struct AttentionLaunch {
  AttentionParams p;
  HeadGroups groups;
};
static_assert(sizeof(AttentionLaunch) <= 4096, "kernel parameters exceed 4 KB");

// A chunk of the cache in shared memory. CacheElement: uint16_t for bfloat16, or int8_t.
template <int kHeadDim, typename CacheElement>
struct CacheShape {
  using Element = CacheElement;
  static constexpr bool kScaled = sizeof(Element) == 1;  // positions have scales
  static constexpr int kPiece = 16 / sizeof(Element);    // elements of 16 bytes
  static constexpr int kDim = kHeadDim;                  // head_dim, padded with zeros
  static constexpr int kPieces = kDim / kPiece;          // of a row
  static constexpr int kStride = kDim + kPiece;          // of a row: ldmatrix has no conflicts
  static constexpr int kChunkElements = kChunk * kStride;
  static constexpr int kQuerySteps = kDim / 16;      // of 16 elements: mma's depth
  static constexpr int kKeySteps = kScaled ? 4 : 2;  // of 64 bytes of a row
};

// Which rows (token, query head of the group) of which sequence a block has, tokens outer.
struct Tile {
  int32_t group;
  int32_t group_heads;
  int32_t sequence;
  int32_t first_token;   // of the sequence
  int32_t first_row;     // of the sequence's rows
  int32_t rows;          // 0: none
  int32_t min_position;  // of the rows
  int32_t max_position;
};

// A warp's 16 rows of the tile; a thread has the rows lane / 4 and lane / 4 + 8 of them.
struct WarpRows {
  int32_t first;         // of the tile's rows
  int32_t positions[2];  // of the thread's; where there is no such row, of the warp's last, or -1
};

// The least and the largest of the warp's.
__device__ inline int32_t min_position(const WarpRows& rows) {
  return shfl_s32(rows.positions[0], 0);
}
__device__ inline int32_t max_position(const WarpRows& rows) {
  return shfl_s32(rows.positions[1], kWarp - 1);
}

// A softmax over some positions of a warp's rows, before the division: a thread's part, as
// fragments of mma_m16n8k16. Columns 8 n .. 8 n + 7 of the warp's (but see out_column).
template <int kTiles>
struct Partial {
  float max[2];  // of scores as exponents of 2
  float sum[4];  // of the weights, as a column of ones would have it
  float out[kTiles][4];
};

__device__ inline int32_t last_position(int32_t chunk) { return chunk * kChunk + kChunk - 1; }
__device__ inline int32_t lane_id() { return static_cast<int32_t>(threadIdx.x % kWarp); }
__device__ inline int32_t warp_id() { return static_cast<int32_t>(threadIdx.x / kWarp); }

}  // namespace intermix::cuda
