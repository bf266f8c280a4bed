// Where chunks of positions lie in the cache, and their way to shared memory. Device code.
#pragma once

#include <cstdint>
#include <limits>

#include "kernels/cuda/attention_types.h"

namespace intermix::cuda {

// What a block needs to know of one position before it copies k and v.
struct CachePlace {
  int32_t piece;  // where it lies in the cache, in pieces of 16 bytes; -1 beyond the tile's last
  float k_scale;  // of an int8 cache
  float v_scale;
};
// The same of kPositions in shared memory; scales 0 beyond the tile's last position.
template <int kPositions, bool kScaled>
struct CachePlaces {
  int32_t pieces[kPositions];
  float k_scales[kPositions];
  float v_scales[kPositions];
};
template <int kPositions>
struct CachePlaces<kPositions, false> {
  int32_t pieces[kPositions];
};

// The cache block that a position lies in; -1 beyond the tile's last.
__device__ inline int32_t block_index(const AttentionParams& p, int32_t position) {
  return static_cast<int32_t>(static_cast<uint64_t>(position) * p.block_reciprocal >> 32);
}
__device__ inline int32_t find_cache_block(const AttentionLaunch& launch, const Tile& tile,
                                           int32_t position) {
  const AttentionParams& p = launch.p;
  if (position > tile.max_position) return -1;
  return p.block_tables[tile.sequence * p.table_stride + block_index(p, position)];
}
//   block        of find_cache_block
//   with_scales  whether an int8 cache's scales may be read yet; else they are 0
template <bool kScaled>
__device__ CachePlace place_in_block(const AttentionLaunch& launch, const Tile& tile,
                                     int32_t position, int32_t block, bool with_scales = true) {
  const AttentionParams& p = launch.p;
  CachePlace place = {-1, 0.0f, 0.0f};
  if (block < 0) return place;
  const int32_t offset = position - block_index(p, position) * p.block_size;
  const int32_t head = launch.groups.kv_heads[tile.group];
  place.piece = block * p.block_pieces + head * p.head_pieces + offset * p.position_pieces;
  if (kScaled && with_scales) {
    const int64_t scale =
        static_cast<int64_t>(block) * p.block_scales + head * p.head_scales + offset;
    place.k_scale = p.k_scales[scale];
    place.v_scale = p.v_scales[scale];
  }
  return place;
}
template <bool kScaled>
__device__ CachePlace find_place(const AttentionLaunch& launch, const Tile& tile, int32_t position,
                                 bool with_scales = true) {
  const int32_t block = find_cache_block(launch, tile, position);
  return place_in_block<kScaled>(launch, tile, position, block, with_scales);
}
template <int kPositions, bool kScaled>
__device__ void store_place(const CachePlace& place, int32_t index,
                            CachePlaces<kPositions, kScaled>& places) {
  places.pieces[index] = place.piece;
  if constexpr (kScaled) {
    places.k_scales[index] = place.k_scale;
    places.v_scales[index] = place.v_scale;
  }
}

// The same for kPositions from `first` on: of place t it is thread t. To be stored later.
template <int kPositions, bool kScaled>
__device__ CachePlace find_places(const AttentionLaunch& launch, const Tile& tile, int32_t first) {
  const auto thread = static_cast<int32_t>(threadIdx.x);
  if (thread >= kPositions) return {-1, 0.0f, 0.0f};
  return find_place<kScaled>(launch, tile, first + thread);
}
template <int kPositions, bool kScaled>
__device__ void store_places(const CachePlace& place, CachePlaces<kPositions, kScaled>& places) {
  if (threadIdx.x < kPositions) store_place(place, static_cast<int32_t>(threadIdx.x), places);
}

// A block's first kCount, at once.
//   first          first(i): the first position of places[i]
//   old_positions  of the sequence; new ones get their scales from first_new_scales
template <int kCount, int kPositions, bool kScaled, typename First>
__device__ void first_places(const AttentionLaunch& launch, const Tile& tile, const First& first,
                             CachePlaces<kPositions, kScaled>* places,
                             int32_t old_positions = std::numeric_limits<int32_t>::max()) {
  static_assert(kCount * kPositions <= kThreads);
  const auto thread = static_cast<int32_t>(threadIdx.x);
  if (thread >= kCount * kPositions) return;
  const int32_t index = thread % kPositions;
  const int32_t position = first(thread / kPositions) + index;
  const CachePlace place = find_place<kScaled>(launch, tile, position, position < old_positions);
  store_place(place, index, places[thread / kPositions]);
}
template <int kCount, int kPositions, bool kScaled, typename First>
__device__ void first_new_scales(const AttentionLaunch& launch, const Tile& tile,
                                 const First& first, CachePlaces<kPositions, kScaled>* places,
                                 int32_t old_positions) {
  if constexpr (kScaled) {
    const auto thread = static_cast<int32_t>(threadIdx.x);
    if (thread >= kCount * kPositions) return;
    const int32_t index = thread % kPositions;
    const int32_t position = first(thread / kPositions) + index;
    if (position < old_positions) return;
    const CachePlace place = find_place<true>(launch, tile, position);
    places[thread / kPositions].k_scales[index] = place.k_scale;
    places[thread / kPositions].v_scales[index] = place.v_scale;
  }
}

// The 16-byte pieces of a chunk that this thread copies: of neighbouring rows, in one column.
template <typename C>
struct ThreadPieces {
  static constexpr int kCount = kChunk * C::kPieces / kThreads;
  static_assert(kThreads % C::kPieces == 0 && kCount > 0);
  int32_t places[kCount];  // in pieces from the cache's start
  bool real[kCount];       // false beyond the last position and head_dim, where zeros belong
};
template <typename C>
__device__ int32_t piece_row(int i) {
  return static_cast<int32_t>(threadIdx.x / C::kPieces) * ThreadPieces<C>::kCount + i;
}
template <typename C>
__device__ int32_t piece_column() {  // in pieces
  return static_cast<int32_t>(threadIdx.x % C::kPieces);
}

// Reads all places before anything is copied: shared memory is read in order with copies to it.
//   places  of the chunk's positions
template <typename C>
__device__ ThreadPieces<C> thread_pieces(const AttentionParams& p, const int32_t* places) {
  ThreadPieces<C> pieces;
  int32_t from[ThreadPieces<C>::kCount];
#pragma unroll
  for (int i = 0; i < ThreadPieces<C>::kCount; ++i) from[i] = places[piece_row<C>(i)];
  const int32_t column = piece_column<C>();
  const bool real = column * C::kPiece < p.head_dim;
#pragma unroll
  for (int i = 0; i < ThreadPieces<C>::kCount; ++i) {
    pieces.real[i] = real && from[i] >= 0;
    pieces.places[i] = from[i] + column;
  }
  return pieces;
}

// Starts the copy of one chunk of k or v.
//   to  to(i): where this thread's piece i belongs in shared memory
template <typename C, typename To>
__device__ void copy_pieces(const void* cache, const ThreadPieces<C>& pieces, const To& to) {
#pragma unroll
  for (int i = 0; i < ThreadPieces<C>::kCount; ++i) {
    cp_async_16(to(i), static_cast<const char*>(cache) + int64_t{pieces.places[i]} * 16,
                pieces.real[i]);
  }
}
//   row_elements, piece_elements  from one row and piece to the next in shared memory
template <typename C, typename T>
__device__ void copy_pieces(const void* cache, const ThreadPieces<C>& pieces, T* to,
                            int row_elements, int piece_elements) {
  T* first = to + piece_row<C>(0) * row_elements + piece_column<C>() * piece_elements;
  copy_pieces(cache, pieces, [&](int i) { return first + i * row_elements; });
}

}  // namespace intermix::cuda
