// Values that are not finite, at positions that some rows of a tile may not see. A masked row has
// weight 0 for such a position, but 0 * infinity is NaN. So these values are taken out of the
// product and added to the rows that see them. Rare; device code. Only a bfloat16 cache holds such
// values: of an int8 one the scales may be NaN, and weigh_chunk leaves them out for masked rows.
#pragma once

#include "kernels/cuda/attention_types.h"

namespace intermix::cuda {

__device__ inline bool is_finite(uint32_t bf16) { return (bf16 & 0x7F80u) != 0x7F80u; }

// Whether some rows of the tile may not see all of the chunk's positions.
__device__ inline bool is_ragged(const Tile& tile, int32_t chunk) {
  return tile.min_position < tile.max_position && last_position(chunk) > tile.min_position;
}

// Whether v holds such a value; the same on all threads. Has a barrier.
template <typename S>
__device__ bool find_unfinite(int32_t chunk, TileMemory<S>& shared) {
  bool found = false;
  for (auto i = static_cast<int32_t>(threadIdx.x); i < kChunk * S::kDim; i += kThreads) {
    const int32_t row = i / S::kDim;
    if (chunk * kChunk + row <= shared.tile.min_position) continue;
    found = found || !is_finite(shared.v[row * S::kCacheStride + i % S::kDim]);
  }
  const uint32_t lanes = ballot(found);
  if (threadIdx.x % kWarp == 0) shared.found[threadIdx.x / kWarp] = lanes != 0;
  sync_block();
  found = false;
  for (int w = 0; w < kWarps; ++w) found = found || shared.found[w] != 0;
  return found;
}

template <typename S>
__device__ void add_unfinite(const ThreadPlace& at, int32_t chunk, TileMemory<S>& shared,
                             Partial<S>& part) {
  const int32_t column = at.column_warp * S::kOutTiles * 8 + at.lane % 4 * 2;
#pragma unroll 1
  for (int32_t t = 0; t < kChunk; ++t) {
    const int32_t position = chunk * kChunk + t;
    if (position <= shared.tile.min_position) continue;
#pragma unroll
    for (int m = 0; m < S::kWarpRowTiles; ++m) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int32_t row = fragment_row<S>(at, m, i / 2);
        if (position > shared.positions[row]) continue;
        const float weight = from_bf16(shared.weights[row * S::kWeightStride + t]);
#pragma unroll
        for (int n = 0; n < S::kOutTiles; ++n) {
          const uint32_t v = shared.v[t * S::kCacheStride + column + n * 8 + i % 2];
          if (!is_finite(v)) part.out[m][n][i] = fma_rn(weight, from_bf16(v), part.out[m][n][i]);
        }
      }
    }
  }
  sync_block();
  for (auto i = static_cast<int32_t>(threadIdx.x); i < kChunk * S::kDim; i += kThreads) {
    uint16_t& v = shared.v[i / S::kDim * S::kCacheStride + i % S::kDim];
    if (chunk * kChunk + i / S::kDim > shared.tile.min_position && !is_finite(v)) v = 0;
  }
  sync_block();
}

}  // namespace intermix::cuda
