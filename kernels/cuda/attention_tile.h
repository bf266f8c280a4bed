// Finding a block's tile of rows, and bringing queries and the cache's chunks to shared memory.
// Device code.
#pragma once

#include "kernels/cuda/attention_fragments_sm80.h"
#include "kernels/cuda/attention_types.h"

namespace intermix::cuda {

// Tiles of sequence s begin at the slot starts[s] * heads / rows + s: an upper bound of what the
// sequences before it need, so that a grid of fixed size finds every tile.
__device__ inline int32_t first_slot(const AttentionParams& p, int32_t sequence, int32_t heads,
                                     int32_t rows) {
  return p.query_starts[sequence] * heads / rows + sequence;
}

// The last sequence whose first slot is not beyond `slot`, by each warp.
__device__ inline int32_t sequence_of_slot(const AttentionParams& p, int32_t slot, int32_t heads,
                                           int32_t rows) {
  const auto lane = static_cast<int32_t>(threadIdx.x % kWarp);
  int32_t count = 0;
  for (int32_t base = 0; base < p.sequences; base += kWarp) {
    const int32_t s = base + lane;
    count += popc(ballot(s < p.sequences && first_slot(p, s, heads, rows) <= slot));
  }
  return count - 1;
}

template <typename S>
__device__ Tile find_tile(const AttentionLaunch& launch) {
  const AttentionParams& p = launch.p;
  const HeadGroups& groups = launch.groups;
  const int32_t heads = groups.starts[blockIdx.y + 1] - groups.starts[blockIdx.y];
  const auto slot = static_cast<int32_t>(gridDim.x - 1 - blockIdx.x);  // long rows start first
  Tile tile = {};
  tile.group_heads = heads;
  tile.sequence = sequence_of_slot(p, slot, heads, S::kRows);
  tile.first_token = p.query_starts[tile.sequence];
  const int32_t tokens = p.query_starts[tile.sequence + 1] - tile.first_token;
  tile.first_row = (slot - first_slot(p, tile.sequence, heads, S::kRows)) * S::kRows;
  const int32_t left = tokens * heads - tile.first_row;
  if (left <= 0) return tile;
  tile.rows = left < S::kRows ? left : S::kRows;
  tile.min_position = p.positions[tile.first_token + tile.first_row / heads];
  tile.max_position = p.positions[tile.first_token + (tile.first_row + tile.rows - 1) / heads];
  return tile;
}

struct RowPlace {
  int32_t token;
  int32_t head;
};
__device__ inline RowPlace row_place(const AttentionLaunch& launch, const Tile& tile, int32_t row) {
  const int32_t r = tile.first_row + row;
  return {tile.first_token + r / tile.group_heads,
          launch.groups.heads[launch.groups.starts[blockIdx.y] + r % tile.group_heads]};
}

// Queries as bfloat16 to shared memory, zeros where there are none; and the rows' positions.
template <typename S>
__device__ void load_queries(const AttentionLaunch& launch, const Tile& tile,
                             TileMemory<S>& shared) {
  const AttentionParams& p = launch.p;
  for (auto i = static_cast<int32_t>(threadIdx.x); i < S::kRows * S::kQueryPieces; i += kThreads) {
    const int32_t row = i / S::kQueryPieces;
    const int32_t column = i % S::kQueryPieces * 8;
    uint4 piece = {0, 0, 0, 0};
    if (row < tile.rows && column < p.head_dim) {
      const RowPlace place = row_place(launch, tile, row);
      float x[8];
      load_f32x8(p.q + place.token * p.q_stride + place.head * p.head_dim + column, x);
      piece = narrow_bf16(x);
    }
    store_query<S>(shared.q + row * S::kStride, column, piece);
  }
  for (auto row = static_cast<int32_t>(threadIdx.x); row < S::kRows; row += kThreads) {
    const RowPlace place = row_place(launch, tile, row < tile.rows ? row : 0);
    shared.positions[row] = row < tile.rows ? p.positions[place.token] : -1;
    shared.tokens[row] = place.token;
    shared.heads[row] = place.head;
  }
}

// What the block needs to know of one position before it copies k and v.
struct CachePlace {
  int32_t piece;  // where it lies in the cache, in pieces of 16 bytes; -1 beyond the tile's last
  float k_scale;  // of an int8 cache
  float v_scale;
};

// Of position chunk * kChunk + threadIdx.x.
template <typename S>
__device__ CachePlace cache_place(const AttentionLaunch& launch, const Tile& tile, int32_t chunk) {
  const AttentionParams& p = launch.p;
  const int32_t t = chunk * kChunk + static_cast<int32_t>(threadIdx.x);
  CachePlace place = {-1, 0.0f, 0.0f};
  if (threadIdx.x >= kChunk || t > tile.max_position) return place;
  const int32_t block = p.block_tables[tile.sequence * p.table_stride + t / p.block_size];
  const int32_t head = launch.groups.kv_heads[blockIdx.y];
  place.piece =
      block * p.block_pieces + head * p.head_pieces + t % p.block_size * p.position_pieces;
  if constexpr (S::kScaled) {
    const int64_t index =
        static_cast<int64_t>(block) * p.block_scales + head * p.head_scales + t % p.block_size;
    place.k_scale = p.k_scales[index];
    place.v_scale = p.v_scales[index];
  }
  return place;
}

// To the shared memory of a chunk; each of the first kChunk threads its own.
template <typename S>
__device__ void store_place(const CachePlace& place, int32_t buffer, TileMemory<S>& shared) {
  if (threadIdx.x >= kChunk) return;
  shared.pieces[buffer][threadIdx.x] = place.piece;
  if constexpr (S::kScaled) {
    shared.scaled.k[buffer][threadIdx.x] = place.k_scale;
    shared.scaled.v[buffer][threadIdx.x] = place.v_scale;
  }
}

// Starts the copy of one chunk of k or v; zeros beyond the last position and head_dim.
template <typename S>
__device__ void copy_chunk(const AttentionParams& p, const void* cache, const int32_t* pieces,
                           typename S::Element* to) {
  static_assert(kThreads % S::kPieces == 0);
  constexpr int kRowsAtOnce = kThreads / S::kPieces;
  const auto first = static_cast<int32_t>(threadIdx.x / S::kPieces);
  const auto piece = static_cast<int32_t>(threadIdx.x % S::kPieces);
  const bool real = piece * S::kPiece < p.head_dim;
  const auto* elements = static_cast<const typename S::Element*>(cache);
#pragma unroll 4
  for (int32_t row = first; row < kChunk; row += kRowsAtOnce) {
    const int64_t from = pieces[row];
    const bool valid = real && from >= 0;
    cp_async_16(to + row * S::kCacheStride + piece * S::kPiece,
                elements + (valid ? (from + piece) * S::kPiece : 0), valid);
  }
}

}  // namespace intermix::cuda
