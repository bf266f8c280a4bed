// Paged attention of prompts on wgmma: the tiles, the order and the bits of
// attention_prompt_sm80.cu.
//
// wgmma reads k and v where they lie in shared memory, which the fragments of mma.sync keep busy.
// A warpgroup has 64 rows. Its products are the same sums as those of mma.sync (fragments_test.cc).
// Where some of its rows may not see all positions of a chunk, v's product stays on mma.sync:
// values that are not finite are taken out there.
#include "kernels/cuda/attention_cache.h"
#include "kernels/cuda/attention_kernels.h"
#include "kernels/cuda/attention_prompt.h"
#include "kernels/cuda/attention_total.h"

namespace intermix::cuda {
namespace {

inline constexpr int kGroupRows = 4 * kWarpRows;  // of a warpgroup
inline constexpr int kHalfColumns = 64;           // 128 bytes of a row: the swizzle's span

template <int kHeadDim, typename Element>
struct WgmmaShape : PromptShape<kHeadDim, Element> {
  static constexpr int kSharedTiles = kHeadDim > 64 ? 6 : 0;
  static constexpr int kHalves = kHeadDim / kHalfColumns;
};

inline constexpr int kPlaces = 4;  // of the chunk in use and the two after it

// A chunk of k or v, bfloat16, as wgmma reads it: the 16-byte piece p of a row lies at p ^ row % 8.
template <typename S>
struct alignas(1024) SwizzledChunk {
  uint16_t halves[S::kHalves][kChunk][kHalfColumns];

  static __device__ int32_t offset(int32_t position, int32_t column) {
    const int32_t piece = column / 8 % 8 ^ position % 8;
    return (column / kHalfColumns * kChunk + position) * kHalfColumns + piece * 8 + column % 8;
  }
  __device__ uint16_t* at(int32_t position, int32_t column) {
    return halves[0][0] + offset(position, column);
  }
  __device__ const uint16_t* at(int32_t position, int32_t column) const {
    return halves[0][0] + offset(position, column);
  }
};

// The block's shared memory.
template <typename S>
struct PromptMemory {
  SwizzledChunk<S> k[2];
  SwizzledChunk<S> v[2];
  CachePlaces<kChunk, S::kScaled> places[kPlaces];
  Tile tile;
  // Where a warp puts weights for add_unfinite.
  alignas(16) uint16_t weights[S::kScaled ? 1 : kWarps][kWarpRows * 16];
  // Of the splits so far, the last columns.
  float4 totals[S::kSharedTiles > 0 ? S::kSharedTiles : 1][kThreads];
};

// Starts the copy of a chunk of k and v. An int8 piece goes to where it will be bfloat16.
template <typename S>
__device__ void copy_turn(const AttentionParams& p, int32_t turn, PromptMemory<S>& shared) {
  const auto pieces = thread_pieces<S>(p, shared.places[turn % kPlaces].pieces);
  const auto copy = [&](const void* cache, SwizzledChunk<S>& chunk) {
    copy_pieces(cache, pieces,
                [&](int i) { return chunk.at(piece_row<S>(i), piece_column<S>() * S::kPiece); });
  };
  copy(p.k, shared.k[turn % 2]);
  copy(p.v, shared.v[turn % 2]);
  cp_async_commit();
}
// Waits for this thread's part of it and shows it to wgmma.
template <typename S>
__device__ void receive_turn(int32_t turn, PromptMemory<S>& shared) {
  cp_async_wait<0>();
  if constexpr (S::kScaled) {
    const auto widen = [&](SwizzledChunk<S>& chunk) {
#pragma unroll
      for (int i = 0; i < ThreadPieces<S>::kCount; ++i) {
        const int32_t row = piece_row<S>(i);
        const int32_t column = piece_column<S>() * S::kPiece;
        widen_in_place(chunk.at(row, column), chunk.at(row, column + 8));
      }
    };
    widen(shared.k[turn % 2]);
    widen(shared.v[turn % 2]);
  }
  fence_async_proxy();
}

// Starts scores = q . k^T of the warpgroup's rows.
template <typename S>
__device__ void start_scores(const SwizzledChunk<S>& k, const uint32_t (&q)[S::kQuerySteps][4],
                             Scores<S>& scores) {
  constexpr int kHalfSteps = kHalfColumns / 16;
  wgmma_fence();
#pragma unroll
  for (int step = 0; step < S::kQuerySteps; ++step) {
    const uint16_t* columns = k.halves[step / kHalfSteps][0] + step % kHalfSteps * 16;
    wgmma_m64n64k16_bf16(scores, q[step], columns, step > 0);
  }
  wgmma_commit();
}

// Starts part.out += weights . v.
template <typename S>
__device__ void start_out(const SwizzledChunk<S>& v, const Weights& weights,
                          Partial<S::kTiles>& part) {
  wgmma_fence();
#pragma unroll
  for (int t = 0; t < kChunk / 16; ++t) {
    if constexpr (S::kTiles == 8) {
      wgmma_m64n64k16_bf16_trans(part.out, weights[t], v.halves[0][t * 16]);
    } else {
      wgmma_m64n128k16_bf16_trans(part.out, weights[t], v.halves[0][t * 16]);
    }
  }
  wgmma_commit();
}

template <int kRows>
__device__ void settle(uint32_t (&fragments)[kRows][4]) {
#pragma unroll
  for (auto& fragment : fragments) wgmma_settle(fragment);
}

// The least and the largest position of a warpgroup's rows, -1 where it has none: the same for its
// four warps, which meet in wgmma.
struct GroupPositions {
  int32_t min;
  int32_t max;
};
__device__ inline GroupPositions group_positions(const AttentionLaunch& launch, const Tile& tile) {
  const int32_t first = warp_id() * kWarpRows / kGroupRows * kGroupRows;
  if (first >= tile.rows) return {-1, -1};
  const int32_t end = first + kGroupRows < tile.rows ? first + kGroupRows : tile.rows;
  const auto position = [&](int32_t row) {
    return launch.p.positions[row_place(launch, tile, row).token];
  };
  return {position(first), position(end - 1)};
}

// One chunk for one warpgroup. kMasked: some of its rows may not see all positions.
template <bool kMasked, typename S>
__device__ void attend_chunk(const AttentionParams& p, int32_t turn, int32_t chunk,
                             const WarpRows& rows, uint32_t (&q)[S::kQuerySteps][4],
                             PromptMemory<S>& shared, Partial<S::kTiles>& part) {
  const float* k_scales = nullptr;
  const float* v_scales = nullptr;
  if constexpr (S::kScaled) {
    k_scales = shared.places[turn % kPlaces].k_scales;
    v_scales = shared.places[turn % kPlaces].v_scales;
  }
  const SwizzledChunk<S>& v = shared.v[turn % 2];
  Scores<S> scores;
  Weights weights;
  float factors[2];
  start_scores<S>(shared.k[turn % 2], q, scores);
  wgmma_wait<0>();
  wgmma_settle(scores);
  settle(q);
  raise_maxima<kMasked, S>(p, k_scales, chunk, rows, scores, part, factors);
  rescale(factors, part);
  weigh_chunk<kMasked, S>(p, v_scales, chunk, rows, scores, weights, part);
  if constexpr (kMasked && !S::kScaled) {
    const uint32_t found = accumulate_chunk<kMasked, S>(v, weights, part);
    if (!any_found(found)) return;
    restore_unfinite<S>(weights, v, chunk, rows, shared.weights[warp_id()], part);
  } else {
    start_out<S>(v, weights, part);
    wgmma_wait<0>();
    wgmma_settle(part.out);
    settle(weights);
  }
}

// blockIdx: x as in find_tile, y the first split; a block takes every gridDim.y-th split. kShared:
// splits go to the scratch memory, not to a total.
template <int kHeadDim, typename Element, bool kShared>
__global__ void __launch_bounds__(kThreads, 1)
    AttentionPromptWgmmaKernel(const __grid_constant__ AttentionLaunch launch) {
  using S = WgmmaShape<kHeadDim, Element>;
  const AttentionParams& p = launch.p;
  auto& shared = *reinterpret_cast<PromptMemory<S>*>(shared_memory());
  {
    const Tile tile = find_tile<kPromptRows>(launch);  // from the step's inputs alone
    start_early();
    if (tile.rows == 0 || chunk_of_turn(0) * kChunk > tile.max_position) return;
    if (threadIdx.x == 0) shared.tile = tile;
    first_places(launch, tile, chunk_of_turn(0) * kChunk, chunk_of_turn(1) * kChunk, shared.places);
  }
  sync_block();
  const Tile& tile = shared.tile;
  copy_turn(p, 0, shared);
  uint32_t q[S::kQuerySteps][4];
  const WarpRows rows = load_rows<S>(launch, tile, warp_id() * kWarpRows, q);
  const GroupPositions group = group_positions(launch, tile);
  Partial<S::kTiles> part;
  Total<S> total = {.held = {}, .shared = shared.totals};
  clear(part);
  clear(total);
  const int32_t turns = num_turns(tile.max_position / kChunk + 1);
#pragma unroll 1
  for (int32_t turn = 0; turn < turns; ++turn) {
    receive_turn(turn, shared);
    sync_block();  // the chunk is here; the one before it is no longer read
    const bool more = turn + 1 < turns;
    if (more) copy_turn(p, turn + 1, shared);
    const CachePlace place =
        find_places<kChunk, S::kScaled>(launch, tile, chunk_of_turn(turn + 2) * kChunk);
    const int32_t chunk = chunk_of_turn(turn);
    if (last_position(chunk) <= group.min) {
      attend_chunk<false>(p, turn, chunk, rows, q, shared, part);
    } else if (chunk * kChunk <= group.max) {
      attend_chunk<true>(p, turn, chunk, rows, q, shared, part);
    }
    store_places(place, shared.places[(turn + 2) % kPlaces]);
    if ((turn + 1) % kChunksPerSplit != 0 && more) continue;
    finish_split<kShared, S>(launch, tile, rows, chunk / kChunksPerSplit, part, total);
  }
  finish_rows<kShared, S>(launch, tile, rows, total);
}

// --- host ---

template <int kHeadDim, typename Element>
void LaunchPrompt(const AttentionLaunch& launch, const AttentionGrid& grid, cudaStream_t stream) {
  const bool shared = launch.p.partials != nullptr;
  LaunchTiles("AttentionPromptWgmma",
              shared ? AttentionPromptWgmmaKernel<kHeadDim, Element, true>
                     : AttentionPromptWgmmaKernel<kHeadDim, Element, false>,
              sizeof(PromptMemory<WgmmaShape<kHeadDim, Element>>), launch, grid, stream);
}

}  // namespace

void LaunchAttentionPromptWgmma(const AttentionLaunch& launch, const AttentionGrid& grid,
                                cudaStream_t stream) {
  WithAttentionShape<kWgmmaHeadDim, kMaxPromptHeadDim>(
      launch.p, [&]<int kHeadDim, typename Element>() {
        LaunchPrompt<kHeadDim, Element>(launch, grid, stream);
      });
}

}  // namespace intermix::cuda
