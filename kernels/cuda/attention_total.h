// How a block of a prompt kernel walks over splits, and what it has of all of them. Device code.
#pragma once

#include "kernels/cuda/attention_softmax.h"
#include "kernels/cuda/attention_tile.h"

namespace intermix::cuda {

// A block takes the chunks of every gridDim.y-th split in turns.
__device__ inline int32_t chunk_of_turn(int32_t turn) {
  const auto splits = static_cast<int32_t>(gridDim.y);
  return (turn / kChunksPerSplit * splits + static_cast<int32_t>(blockIdx.y)) * kChunksPerSplit +
         turn % kChunksPerSplit;
}
__device__ inline int32_t position_of_turn(int32_t turn) { return chunk_of_turn(turn) * kChunk; }
// How many turns those of the first `chunks` chunks are.
__device__ inline int32_t num_turns(int32_t chunks) {
  const auto round = static_cast<int32_t>(gridDim.y) * kChunksPerSplit;
  const int32_t rest = chunks % round - static_cast<int32_t>(blockIdx.y) * kChunksPerSplit;
  const int32_t last = rest < 0 ? 0 : rest < kChunksPerSplit ? rest : kChunksPerSplit;
  return chunks / round * kChunksPerSplit + last;
}

// What a thread has of all splits: a Partial, of which the last columns are in shared memory, since
// this split's and all splits' are more than registers hold.
template <typename S>
struct Total {
  Partial<S::kTiles - S::kSharedTiles> held;
  float4 (*shared)[kThreads];
};

template <typename S>
__device__ void clear(Total<S>& total) {
  clear(total.held);
#pragma unroll
  for (int n = 0; n < S::kSharedTiles; ++n) total.shared[n][threadIdx.x] = {0.0f, 0.0f, 0.0f, 0.0f};
}

template <typename S>
__device__ void merge_split(const Partial<S::kTiles>& part, Total<S>& total) {
  MergeFactors factors[2];
  merge_split(part, total.held, factors);
#pragma unroll
  for (int n = 0; n < S::kSharedTiles; ++n) {
    const float(&next)[4] = part.out[S::kTiles - S::kSharedTiles + n];
    float4& sum = total.shared[n][threadIdx.x];
    sum = {merged(factors[0], sum.x, next[0]), merged(factors[0], sum.y, next[1]),
           merged(factors[1], sum.z, next[2]), merged(factors[1], sum.w, next[3])};
  }
}

template <typename S>
__device__ void gather(const Total<S>& total, Partial<S::kTiles>& whole) {
  constexpr int kHeld = S::kTiles - S::kSharedTiles;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    whole.sum[i] = total.held.sum[i];
#pragma unroll
    for (int n = 0; n < kHeld; ++n) whole.out[n][i] = total.held.out[n][i];
  }
#pragma unroll
  for (int n = 0; n < S::kSharedTiles; ++n) {
    const float4 sum = total.shared[n][threadIdx.x];
    whole.out[kHeld + n][0] = sum.x;
    whole.out[kHeld + n][1] = sum.y;
    whole.out[kHeld + n][2] = sum.z;
    whole.out[kHeld + n][3] = sum.w;
  }
}

// A split is finished, of which `part` begins anew. kShared: splits go to the scratch memory, not
// to a total.
template <bool kShared, typename S>
__device__ void finish_split(const AttentionLaunch& launch, const Tile& tile, const WarpRows& rows,
                             int32_t split, Partial<S::kTiles>& part, Total<S>& total) {
  if constexpr (kShared) {
    if (split == 0) store_out<S>(launch, tile, rows, part, 0, 0);
    store_partials<S>(launch, tile, rows, part, 0, split);
  } else {
    merge_split(part, total);
  }
  clear(part);
}
// All of them are.
template <bool kShared, typename S>
__device__ void finish_rows(const AttentionLaunch& launch, const Tile& tile, const WarpRows& rows,
                            const Total<S>& total) {
  if constexpr (!kShared) {
    Partial<S::kTiles> whole;
    gather(total, whole);
    store_out<S>(launch, tile, rows, whole, 0, tile.max_position / kAttentionSplit);
  }
}

}  // namespace intermix::cuda
