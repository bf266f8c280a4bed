// A block's tile of rows: finding it, its queries, and writing its results. Device code.
#pragma once

#include "kernels/cuda/attention_fragments_sm80.h"
#include "kernels/cuda/attention_softmax.h"
#include "kernels/cuda/attention_types.h"

namespace intermix::cuda {

// Where tiles of a sequence begin: a bound of what those before it need, so that a grid of fixed
// size finds every tile. A sequence's rows need no more tiles than rows / kRows + 1, nor than its
// tokens do one by one; with one token to each sequence that is what they need.
__device__ inline int32_t first_slot(const AttentionParams& p, int32_t sequence, int32_t heads,
                                     int32_t rows) {
  const int32_t tokens = p.query_starts[sequence];
  const int32_t by_rows = tokens * heads / rows + sequence;
  const int32_t by_tokens = tokens * ((heads + rows - 1) / rows);
  return by_rows < by_tokens ? by_rows : by_tokens;
}

// The last sequence whose first slot is not beyond `slot`, by each warp.
__device__ inline int32_t sequence_of_slot(const AttentionParams& p, int32_t slot, int32_t heads,
                                           int32_t rows) {
  int32_t count = 0;
  for (int32_t base = 0; base < p.sequences; base += kWarp) {
    const int32_t s = base + lane_id();
    count += popc(ballot(s < p.sequences && first_slot(p, s, heads, rows) <= slot));
  }
  return count - 1;
}

// blockIdx.x counts the groups of heads, then the slots; tiles of late, long rows start first.
template <int kRows>
__device__ Tile find_tile(const AttentionLaunch& launch) {
  const AttentionParams& p = launch.p;
  Tile tile = {};
  const auto block = static_cast<int32_t>(gridDim.x - 1 - blockIdx.x);
  const int32_t slot = block / p.num_groups;
  tile.group = block % p.num_groups;
  const int32_t heads = launch.groups.starts[tile.group + 1] - launch.groups.starts[tile.group];
  tile.group_heads = heads;
  tile.sequence = sequence_of_slot(p, slot, heads, kRows);
  tile.first_token = p.query_starts[tile.sequence];
  const int32_t tokens = p.query_starts[tile.sequence + 1] - tile.first_token;
  tile.first_row = (slot - first_slot(p, tile.sequence, heads, kRows)) * kRows;
  const int32_t left = tokens * heads - tile.first_row;
  if (left <= 0) return tile;
  tile.rows = left < kRows ? left : kRows;
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
          launch.groups.heads[launch.groups.starts[tile.group] + r % tile.group_heads]};
}

// The tile's row of a thread's fragment.
__device__ inline int32_t fragment_row(const WarpRows& rows, int half) {
  return rows.first + half * 8 + lane_id() / 4;
}

// A warp's rows from `first`, and the thread's queries of them.
template <typename C>
__device__ WarpRows load_rows(const AttentionLaunch& launch, const Tile& tile, int32_t first,
                              uint32_t (&q)[C::kQuerySteps][4]) {
  const AttentionParams& p = launch.p;
  WarpRows rows = {.first = first, .positions = {-1, -1}};
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int32_t row = fragment_row(rows, half);
    const RowPlace place = row_place(launch, tile, row < tile.rows ? row : tile.rows - 1);
    if (first < tile.rows) rows.positions[half] = p.positions[place.token];
    if (first + half * 8 < tile.rows) {  // of the last row where there is none
      load_query<C>(p.q + place.token * p.q_stride + place.head * p.head_dim, p.head_dim, half, q);
    } else {
#pragma unroll
      for (int step = 0; step < C::kQuerySteps; ++step) q[step][half] = q[step][2 + half] = 0;
    }
  }
  return rows;
}

// Writes the rows whose last split is at most `last_split` to out.  first_column: the warp's
template <typename C, int kTiles>
__device__ void store_out(const AttentionLaunch& launch, const Tile& tile, const WarpRows& rows,
                          const Partial<kTiles>& part, int32_t first_column, int32_t last_split) {
  const AttentionParams& p = launch.p;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int32_t row = fragment_row(rows, half);
    if (row >= tile.rows || rows.positions[half] / kAttentionSplit > last_split) continue;
    const RowPlace place = row_place(launch, tile, row);
    uint16_t* to = p.out + place.token * p.out_stride + place.head * p.head_dim;
    const float sum = part.sum[half * 2];
#pragma unroll
    for (int n = 0; n < kTiles; ++n) {
      const int32_t column = first_column + out_column<C>(n);
      if (column >= p.head_dim) continue;
      const float2 pair = out_pair<C>(part, n, half);
      *reinterpret_cast<uint32_t*>(to + column) = normalized_pair(pair.x, pair.y, sum);
    }
  }
}

// Writes one split of the rows that have several to the scratch memory.
template <typename C, int kTiles>
__device__ void store_partials(const AttentionLaunch& launch, const Tile& tile,
                               const WarpRows& rows, const Partial<kTiles>& part,
                               int32_t first_column, int32_t split) {
  const AttentionParams& p = launch.p;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int32_t row = fragment_row(rows, half);
    const int32_t position = rows.positions[half];
    if (row >= tile.rows || position < kAttentionSplit || position < split * kAttentionSplit) {
      continue;
    }
    const RowPlace place = row_place(launch, tile, row);
    const int64_t index =
        (static_cast<int64_t>(split) * p.tokens + place.token) * p.num_heads + place.head;
    float* to = p.partials + index * p.head_dim;
#pragma unroll
    for (int n = 0; n < kTiles; ++n) {
      const int32_t column = first_column + out_column<C>(n);
      if (column >= p.head_dim) continue;
      *reinterpret_cast<float2*>(to + column) = out_pair<C>(part, n, half);
    }
    if (first_column + out_column<C>(0) == 0) {
      p.stats[index] = {part.max[half], part.sum[half * 2]};
    }
  }
}

}  // namespace intermix::cuda
