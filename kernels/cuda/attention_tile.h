// Finding a block's tile of rows, and bringing queries and the cache's chunks to shared memory.
// Device code.
#pragma once

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
  for (auto i = static_cast<int32_t>(threadIdx.x); i < S::kRows * S::kPieces; i += kThreads) {
    const int32_t row = i / S::kPieces;
    const int32_t column = i % S::kPieces * 8;
    uint4 piece = {0, 0, 0, 0};
    if (row < tile.rows && column < p.head_dim) {
      const RowPlace place = row_place(launch, tile, row);
      float x[8];
      load_f32x8(p.q + place.token * p.q_stride + place.head * p.head_dim + column, x);
      piece = narrow_bf16(x);
    }
    *reinterpret_cast<uint4*>(shared.q + row * S::kStride + column) = piece;
  }
  for (auto row = static_cast<int32_t>(threadIdx.x); row < S::kRows; row += kThreads) {
    const RowPlace place = row_place(launch, tile, row < tile.rows ? row : 0);
    shared.positions[row] = row < tile.rows ? p.positions[place.token] : -1;
    shared.tokens[row] = place.token;
    shared.heads[row] = place.head;
  }
}

// Where position chunk * kChunk + threadIdx.x lies in the cache, in pieces of 16 bytes; -1 beyond
// the tile's last.
__device__ inline int32_t cache_piece(const AttentionLaunch& launch, const Tile& tile,
                                      int32_t chunk) {
  const AttentionParams& p = launch.p;
  const int32_t t = chunk * kChunk + static_cast<int32_t>(threadIdx.x);
  if (threadIdx.x >= kChunk || t > tile.max_position) return -1;
  const int32_t block = p.block_tables[tile.sequence * p.table_stride + t / p.block_size];
  return block * p.block_pieces + launch.groups.kv_heads[blockIdx.y] * p.head_pieces +
         t % p.block_size * p.position_pieces;
}

// Starts the copy of one chunk of k or v; zeros beyond the last position and head_dim.
template <typename S>
__device__ void copy_chunk(const AttentionParams& p, const uint16_t* cache, const int32_t* pieces,
                           uint16_t* to) {
  static_assert(kThreads % S::kPieces == 0);
  constexpr int kRowsAtOnce = kThreads / S::kPieces;
  const auto first = static_cast<int32_t>(threadIdx.x / S::kPieces);
  const auto piece = static_cast<int32_t>(threadIdx.x % S::kPieces);
  const bool real = piece * 8 < p.head_dim;
#pragma unroll 4
  for (int32_t row = first; row < kChunk; row += kRowsAtOnce) {
    const int64_t from = pieces[row];
    const bool valid = real && from >= 0;
    cp_async_16(to + row * S::kStride + piece * 8, cache + (valid ? (from + piece) * 8 : 0), valid);
  }
}

}  // namespace intermix::cuda
