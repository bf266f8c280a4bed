// Paged attention of prompts on wgmma: the tiles, the order and the bits of
// attention_prompt_sm80.cu.
//
// wgmma reads k and v where they lie in shared memory, which the fragments of mma.sync keep busy.
// A warpgroup has 64 rows. Its products are the same sums as those of mma.sync (fragments_test.cc).
// While a warp turns the scores of one chunk into weights, the tensor cores multiply the values of
// the chunk before and the keys of the chunk after it.
//
// Where some of a warpgroup's rows may not see all positions of a chunk nothing overlaps, and v's
// product is on mma.sync: values that are not finite are taken out there.
#include "kernels/cuda/attention_cache.h"
#include "kernels/cuda/attention_kernels.h"
#include "kernels/cuda/attention_prompt.h"
#include "kernels/cuda/attention_total.h"

namespace intermix::cuda {
namespace {

inline constexpr int kGroupRows = 4 * kWarpRows;  // of a warpgroup
inline constexpr int kHalfColumns = 64;           // 128 bytes of a row: the swizzle's span
inline constexpr int kHalfBytes = kChunk * kHalfColumns * 2;

template <int kHeadDim, typename Element>
struct WgmmaShape : PromptShape<kHeadDim, Element> {
  static constexpr int kSharedTiles = kHeadDim > 64 ? 14 : 0;
  static constexpr int kHalves = kHeadDim / kHalfColumns;
};

// Chunks on their way and in use: in turn t the copy of chunk t + kAhead starts, while the keys of
// chunk t + 1 and the values of chunk t - 1 are multiplied.
inline constexpr int kAhead = 2;
inline constexpr int kKeyStages = kAhead;
inline constexpr int kValueStages = kAhead + 2;

// A chunk of k or v, bfloat16, as wgmma reads it: the 16-byte piece p of a row lies at p ^ row % 8.
template <typename S>
struct alignas(1024) SwizzledChunk {
  uint16_t halves[S::kHalves][kChunk][kHalfColumns];

  static __device__ int32_t offset(int32_t position, int32_t column) {
    const int32_t piece = column / 8 % 8 ^ position % 8;
    return (column / kHalfColumns * kChunk + position) * kHalfColumns + piece * 8 + column % 8;
  }
  // The same `rows` below, fewer than divide the first position.
  static __device__ int32_t offset_below(int32_t first, int rows) {
    return (first ^ rows * 8) + rows * kHalfColumns;
  }
  __device__ uint16_t* at(int32_t position, int32_t column) {
    return halves[0][0] + offset(position, column);
  }
  // For masked turns: computed there, not kept in registers.
  __device__ const uint16_t* at(int32_t position, int32_t column) const {
    return halves[0][0] + offset(opaque(position), column);
  }
};

// The block's shared memory.
template <typename S>
struct PromptMemory {
  SwizzledChunk<S> k[kKeyStages];
  SwizzledChunk<S> v[kValueStages];
  alignas(1024) uint16_t ones[8][kHalfColumns];        // a bfloat16 1 each: the columns of B
  CachePlaces<kAttentionSplit, S::kScaled> places[2];  // of this split and the next
  Tile tile;
  // Where a warp puts weights for add_unfinite.
  alignas(16) uint16_t weights[S::kScaled ? 1 : kWarps][kWarpRows * 16];
  // Of the splits so far, the last columns.
  float4 totals[S::kSharedTiles > 0 ? S::kSharedTiles : 1][kThreads];
};

// Where a turn's chunk begins in its split's places.
__device__ inline int32_t in_split(int32_t turn) { return turn % kChunksPerSplit * kChunk; }

// What the threads of a block walk over.
template <typename S>
struct Block {
  const AttentionLaunch& launch;
  const Tile& tile;
  PromptMemory<S>& shared;
  int32_t turns;

  __device__ SwizzledChunk<S>& k(int32_t turn) const { return shared.k[turn % kKeyStages]; }
  __device__ SwizzledChunk<S>& v(int32_t turn) const { return shared.v[turn % kValueStages]; }
  __device__ CachePlaces<kAttentionSplit, S::kScaled>& places(int32_t turn) const {
    return shared.places[turn / kChunksPerSplit % 2];
  }
};

// Starts the copy of a turn's chunk of k and v, if there is one. An int8 piece goes to where it
// will be bfloat16.
template <typename S>
__device__ void copy_turn(const Block<S>& block, int32_t turn) {
  if (turn < block.turns) {
    const AttentionParams& p = block.launch.p;
    const auto pieces = thread_pieces<S>(p, block.places(turn).pieces + in_split(turn));
    const int32_t first = SwizzledChunk<S>::offset(piece_row<S>(0), piece_column<S>() * S::kPiece);
    const auto copy = [&](const void* cache, SwizzledChunk<S>& chunk) {
      copy_pieces(cache, pieces, [&](int i) {
        return chunk.halves[0][0] + SwizzledChunk<S>::offset_below(first, i);
      });
    };
    copy(p.k, block.k(turn));
    copy(p.v, block.v(turn));
  }
  cp_async_commit();
}
// Waits for this thread's part of it, after which at most kAhead - 2 others have started, and shows
// it to wgmma.
template <typename S>
__device__ void receive_turn(const Block<S>& block, int32_t turn) {
  cp_async_wait<kAhead - 2>();
  if constexpr (S::kScaled) {
    if (turn < block.turns) {
      const auto widen = [&](SwizzledChunk<S>& chunk) {
#pragma unroll
        for (int i = 0; i < ThreadPieces<S>::kCount; ++i) {
          const int32_t row = piece_row<S>(i);
          const int32_t column = piece_column<S>() * S::kPiece;
          widen_in_place(chunk.at(row, column), chunk.at(row, column + 8));
        }
      };
      widen(block.k(turn));
      widen(block.v(turn));
    }
  }
  fence_async_proxy();
}

// Every warp begins and ends each turn. When one has begun, the next turn's chunk is here; no
// scores of this turn or before, and no values of two turns before, are still multiplied.
//
// In the first turn of a split each thread finds one place of the next one: the block table answers
// while the turn goes on.
static_assert(kThreads == kAttentionSplit && kAhead < kChunksPerSplit);
__device__ inline bool begins_split(int32_t turn) { return turn % kChunksPerSplit == 0; }
__device__ inline int32_t next_split_position(int32_t turn) {
  return position_of_turn(turn + kChunksPerSplit) + static_cast<int32_t>(threadIdx.x);
}
template <typename S>
__device__ int32_t begin_turn(const Block<S>& block, int32_t turn) {
  receive_turn(block, turn + 1);
  sync_roles();
  copy_turn(block, turn + kAhead);
  if (!begins_split(turn)) return -1;
  return find_cache_block(block.launch, block.tile, next_split_position(turn));
}
template <typename S>
__device__ void end_turn(const Block<S>& block, int32_t turn, int32_t cache_block) {
  if (!begins_split(turn)) return;
  store_places(
      place_in_block<S::kScaled>(block.launch, block.tile, next_split_position(turn), cache_block),
      block.places(turn + kChunksPerSplit));
}

// Starts scores = q . k^T of the warpgroup's rows.
template <typename S>
__device__ void start_scores(const SwizzledChunk<S>& k, const uint32_t (&q)[S::kQuerySteps][4],
                             Scores<S>& scores) {
  constexpr int kHalfSteps = kHalfColumns / 16;
  wgmma_fence();
#pragma unroll
  for (int step = 0; step < S::kQuerySteps; ++step) {
    const int offset = step / kHalfSteps * kHalfBytes + step % kHalfSteps * 32;
    wgmma_m64n64k16_bf16(scores, q[step], k.halves, offset, step > 0);
  }
}

// Starts part.out += weights . v, and of a bfloat16 cache the weights' sum.
template <typename S>
__device__ void start_out(const Block<S>& block, const SwizzledChunk<S>& v, const Weights& weights,
                          Partial<S::kTiles>& part) {
  wgmma_fence();
#pragma unroll
  for (int t = 0; t < kChunk / 16; ++t) {
    if constexpr (S::kTiles == 8) {
      wgmma_m64n64k16_bf16_trans(part.out, weights[t], v.halves, t * 16 * 128);
    } else {
      wgmma_m64n128k16_bf16_trans(part.out, weights[t], v.halves, t * 16 * 128);
    }
    if constexpr (!S::kScaled) wgmma_m64n8k16_bf16(part.sum, weights[t], block.shared.ones, 0);
  }
}
template <typename S>
__device__ void settle_out(Partial<S::kTiles>& part) {
  wgmma_settle(part.out);
  if constexpr (!S::kScaled) wgmma_settle(part.sum);
}

template <int kRows>
__device__ void settle(uint32_t (&fragments)[kRows][4]) {
#pragma unroll
  for (auto& fragment : fragments) wgmma_settle(fragment);
}

// The turns of which a warpgroup's rows may see all positions, and then those of which some may see
// some: the same for its four warps, which meet in wgmma.
struct GroupTurns {
  int32_t whole;
  int32_t seen;
};
__device__ inline GroupTurns group_turns(const AttentionLaunch& launch, const Tile& tile) {
  const int32_t first = warp_id() * kWarpRows / kGroupRows * kGroupRows;
  if (first >= tile.rows) return {0, 0};
  const int32_t end = first + kGroupRows < tile.rows ? first + kGroupRows : tile.rows;
  const auto position = [&](int32_t row) {
    return launch.p.positions[row_place(launch, tile, row).token];
  };
  return {num_turns((position(first) + 1) / kChunk), num_turns(position(end - 1) / kChunk + 1)};
}

// What a thread has of its rows.
template <typename S>
struct RowState {
  WarpRows rows;
  uint32_t q[S::kQuerySteps][4];
  Partial<S::kTiles> part;
  Total<S> total;
};

// The maxima and the weights of a chunk.
template <bool kMasked, typename S>
__device__ void weigh_turn(const Block<S>& block, int32_t turn, Scores<S>& scores, Weights& weights,
                           float (&factors)[2], RowState<S>& state) {
  const AttentionParams& p = block.launch.p;
  const float* k_scales = nullptr;
  const float* v_scales = nullptr;
  if constexpr (S::kScaled) {
    k_scales = block.places(turn).k_scales + in_split(turn);
    v_scales = block.places(turn).v_scales + in_split(turn);
  }
  const int32_t chunk = chunk_of_turn(turn);
  raise_maxima<kMasked, S>(p, k_scales, chunk, state.rows, scores, state.part, factors);
  constexpr bool kSummed = kMasked || S::kScaled;  // else start_out does it
  if constexpr (kSummed) rescale_sum(factors, state.part);
  weigh_chunk<kMasked, kSummed, S>(p, v_scales, chunk, state.rows, scores, weights, state.part);
}

template <bool kShared, typename S>
__device__ void finish_split(const Block<S>& block, int32_t turn, RowState<S>& state) {
  finish_split<kShared, S>(block.launch, block.tile, state.rows,
                           chunk_of_turn(turn) / kChunksPerSplit, state.part, state.total);
}
__device__ inline bool ends_split(int32_t turn) { return begins_split(turn + 1); }

// A turn of which all rows see all positions.
//   scores    of this turn
//   next      on return, of the next turn, or of whatever lies there
//   previous  the weights of the turn before, in flight with its values
//   weights   of this turn, on return in flight with its values
template <typename S>
__device__ void whole_turn(const Block<S>& block, int32_t turn, Scores<S>& scores, Scores<S>& next,
                           Weights& previous, Weights& weights, RowState<S>& state) {
  const int32_t cache_block = begin_turn(block, turn);
  start_scores<S>(block.k(turn + 1), state.q, next);
  wgmma_commit();
  float factors[2];
  weigh_turn<false>(block, turn, scores, weights, factors, state);
  wgmma_wait<0>();
  wgmma_settle(next);
  settle(state.q);
  settle_out<S>(state.part);
  settle(previous);
  if (!begins_split(turn)) {  // else they are zeros
    if constexpr (!S::kScaled) rescale_sum(factors, state.part);
    rescale_out(factors, state.part);
  }
  start_out<S>(block, block.v(turn), weights, state.part);
  wgmma_commit();
  end_turn(block, turn, cache_block);
}

// All of these turns. The split of the last one is not finished.
template <bool kShared, typename S>
__device__ void whole_turns(const Block<S>& block, int32_t end, RowState<S>& state) {
  static_assert(kChunksPerSplit % 2 == 0);
  if (end == 0) return;
  Scores<S> scores[2];
  Weights weights[2];
  start_scores<S>(block.k(0), state.q, scores[0]);
  wgmma_commit();
  wgmma_wait<0>();
  wgmma_settle(scores[0]);
#pragma unroll 1
  for (int32_t turn = 0; turn < end; turn += 2) {
    whole_turn(block, turn, scores[0], scores[1], weights[1], weights[0], state);
    if (turn + 1 == end) break;
    whole_turn(block, turn + 1, scores[1], scores[0], weights[0], weights[1], state);
    if (!ends_split(turn + 1) || turn + 2 >= end) continue;
    wgmma_wait<0>();
    settle_out<S>(state.part);
    finish_split<kShared>(block, turn + 1, state);
  }
  wgmma_wait<0>();
  settle_out<S>(state.part);
  settle(weights[0]);
  settle(weights[1]);
}

// A turn of which some rows may not see all positions.
template <typename S>
__device__ void masked_turn(const Block<S>& block, int32_t turn, RowState<S>& state) {
  Scores<S> scores;
  Weights weights;
  float factors[2];
  start_scores<S>(block.k(turn), state.q, scores);
  wgmma_commit();
  wgmma_wait<0>();
  wgmma_settle(scores);
  settle(state.q);
  end_turn(block, turn, begin_turn(block, turn));
  const SwizzledChunk<S>& v = block.v(turn);
  weigh_turn<true>(block, turn, scores, weights, factors, state);
  rescale_out(factors, state.part);
  const uint32_t found = accumulate_chunk<true, S>(v, weights, state.part);
  if constexpr (!S::kScaled) {
    if (any_found(found)) {
      restore_unfinite<S>(weights, v, chunk_of_turn(turn), state.rows,
                          block.shared.weights[warp_id()], state.part);
    }
  }
}

// blockIdx: x as in find_tile, y the first split; a block takes every gridDim.y-th split. kShared:
// splits go to the scratch memory, not to a total.
template <int kHeadDim, typename Element, bool kShared>
__global__ void __launch_bounds__(kThreads, 1)
    AttentionPromptWgmmaKernel(const __grid_constant__ AttentionLaunch launch) {
  using S = WgmmaShape<kHeadDim, Element>;
  auto& shared = *reinterpret_cast<PromptMemory<S>*>(shared_memory());
  {
    const Tile tile = find_tile<kPromptRows>(launch);  // from the step's inputs alone
    start_early();
    if (tile.rows == 0 || position_of_turn(0) > tile.max_position) return;
    if (threadIdx.x == 0) shared.tile = tile;
    for (int i = static_cast<int>(threadIdx.x); i < 8 * kHalfColumns; i += kThreads) {
      shared.ones[0][i] = 0x3F80;
    }
    first_places<1>(launch, tile, position_of_turn, shared.places);
  }
  sync_block();
  const Block<S> block = {.launch = launch,
                          .tile = shared.tile,
                          .shared = shared,
                          .turns = num_turns(shared.tile.max_position / kChunk + 1)};
  for (int32_t turn = 0; turn < kAhead; ++turn) copy_turn(block, turn);
  RowState<S> state = {.total = {.held = {}, .shared = shared.totals}};
  state.rows = load_rows<S>(launch, block.tile, warp_id() * kWarpRows, state.q);
  const GroupTurns group = group_turns(launch, block.tile);
  clear(state.part);
  clear(state.total);
  receive_turn(block, 0);
  sync_block();
  whole_turns<kShared>(block, group.whole, state);
  int32_t turn = group.whole;
#pragma unroll 1
  for (;; ++turn) {
    if (turn > 0 && (ends_split(turn - 1) || turn == group.seen)) {
      finish_split<kShared>(block, turn - 1, state);
    }
    if (turn == group.seen) break;
    masked_turn(block, turn, state);
  }
#pragma unroll 1
  for (; turn < block.turns; ++turn) end_turn(block, turn, begin_turn(block, turn));
  finish_rows<kShared, S>(launch, block.tile, state.rows, state.total);
}

// --- host ---

template <int kHeadDim, typename Element>
void LaunchPrompt(const AttentionLaunch& launch, const AttentionGrid& grid, cudaStream_t stream) {
  using Memory = PromptMemory<WgmmaShape<kHeadDim, Element>>;
  static_assert(sizeof(Memory) <= 227 * 1024, "a block of sm_90 has no more");
  const bool shared = launch.p.partials != nullptr;
  LaunchTiles("AttentionPromptWgmma",
              shared ? AttentionPromptWgmmaKernel<kHeadDim, Element, true>
                     : AttentionPromptWgmmaKernel<kHeadDim, Element, false>,
              sizeof(Memory), launch, grid, stream);
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
