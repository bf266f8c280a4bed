// Paged attention of prompts: tiles of many rows.
//
// A block has one K/V head and up to kPromptRows rows (token, query head) of one sequence. It walks
// splits of kAttentionSplit positions in chunks of kChunk (attention_prompt.h). The next chunk of k
// and v is on its way meanwhile; one barrier hands it over.
#include "kernels/cuda/attention_cache.h"
#include "kernels/cuda/attention_kernels.h"
#include "kernels/cuda/attention_prompt.h"
#include "kernels/cuda/attention_total.h"

namespace intermix::cuda {
namespace {

template <int kHeadDim, typename Element>
struct MmaShape : PromptShape<kHeadDim, Element> {
  using Wide = CacheShape<kHeadDim, uint16_t>;  // of chunks in shared memory
  static constexpr int kSharedTiles = kHeadDim > 64 ? 6 : 0;
};

inline constexpr int kPlaces = 4;  // of the chunk in use and the two after it

// The block's shared memory.
template <typename S>
struct PromptMemory {
  alignas(16) uint16_t k[2][S::Wide::kChunkElements];
  alignas(16) uint16_t v[2][S::Wide::kChunkElements];
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
  copy_pieces(p.k, pieces, shared.k[turn % 2], S::Wide::kStride, S::kPiece);
  copy_pieces(p.v, pieces, shared.v[turn % 2], S::Wide::kStride, S::kPiece);
  cp_async_commit();
}
// Waits for this thread's part of it.
template <typename S>
__device__ void receive_turn(int32_t turn, PromptMemory<S>& shared) {
  cp_async_wait<0>();
  if constexpr (S::kScaled) {
#pragma unroll
    for (int i = 0; i < ThreadPieces<S>::kCount; ++i) {
      const int32_t at = piece_row<S>(i) * S::Wide::kStride + piece_column<S>() * S::kPiece;
      widen_in_place(shared.k[turn % 2] + at, shared.k[turn % 2] + at + 8);
      widen_in_place(shared.v[turn % 2] + at, shared.v[turn % 2] + at + 8);
    }
  }
}

// scores = q . k^T of the warp's rows.
template <typename S>
__device__ void score_chunk(const uint16_t* k, const uint32_t (&q)[S::kQuerySteps][4],
                            Scores<S>& scores) {
#pragma unroll
  for (int n = 0; n < S::kScoreTiles; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) scores[n][i] = 0.0f;
  }
  const uint16_t* from = k + key_pair_offset<typename S::Wide>();
#pragma unroll
  for (int step = 0; step < S::kQuerySteps; ++step) {
#pragma unroll
    for (int n = 0; n < S::kScoreTiles; n += 2) {
      const TilePair keys = load_key_pair(from + n * 8 * S::Wide::kStride + step * 16);
      mma_m16n8k16_bf16(scores[n], q[step], keys.b[0]);
      mma_m16n8k16_bf16(scores[n + 1], q[step], keys.b[1]);
    }
  }
}

// One chunk for one warp. kMasked: some of its rows may not see all positions.
template <bool kMasked, typename S>
__device__ void attend_chunk(const AttentionParams& p, int32_t turn, int32_t chunk,
                             const WarpRows& rows, const uint32_t (&q)[S::kQuerySteps][4],
                             PromptMemory<S>& shared, Partial<S::kTiles>& part) {
  const float* k_scales = nullptr;
  const float* v_scales = nullptr;
  if constexpr (S::kScaled) {
    k_scales = shared.places[turn % kPlaces].k_scales;
    v_scales = shared.places[turn % kPlaces].v_scales;
  }
  const LinearValues values = {shared.v[turn % 2], S::Wide::kStride};
  Scores<S> scores;
  Weights weights;
  float factors[2];
  score_chunk<S>(shared.k[turn % 2], q, scores);
  raise_maxima<kMasked, S>(p, k_scales, chunk, rows, scores, part, factors);
  rescale(factors, part);
  weigh_chunk<kMasked, true, S>(p, v_scales, chunk, rows, scores, weights, part);
  const uint32_t found = accumulate_chunk<kMasked, S>(values, weights, part);
  if constexpr (kMasked && !S::kScaled) {
    if (!any_found(found)) return;
    restore_unfinite<S>(weights, values, chunk, rows, shared.weights[warp_id()], part);
  }
}

// blockIdx: x as in find_tile, y the first split; a block takes every gridDim.y-th split. kShared:
// splits go to the scratch memory, not to a total.
template <int kHeadDim, typename Element, bool kShared>
__global__ void __launch_bounds__(kThreads, 1)
    AttentionPromptKernel(const __grid_constant__ AttentionLaunch launch) {
  using S = MmaShape<kHeadDim, Element>;
  const AttentionParams& p = launch.p;
  auto& shared = *reinterpret_cast<PromptMemory<S>*>(shared_memory());
  {
    const Tile tile = find_tile<kPromptRows>(launch);  // from the step's inputs alone
    start_early();
    if (tile.rows == 0 || position_of_turn(0) > tile.max_position) return;
    if (threadIdx.x == 0) shared.tile = tile;
    first_places<2>(launch, tile, position_of_turn, shared.places);
  }
  sync_block();
  const Tile& tile = shared.tile;
  copy_turn(p, 0, shared);
  uint32_t q[S::kQuerySteps][4];
  const WarpRows rows = load_rows<S>(launch, tile, warp_id() * kWarpRows, q);
  Partial<S::kTiles> part;
  Total<S> total = {.held = {}, .shared = shared.totals};
  clear(part);
  clear(total);
  const int32_t turns = num_turns(tile.max_position / kChunk + 1);
#pragma unroll 1
  for (int32_t turn = 0; turn < turns; ++turn) {
    if (turn == 0 || !S::kScaled) receive_turn(turn, shared);
    sync_block();  // the chunk is here; the one before it is no longer read
    const bool more = turn + 1 < turns;
    if (more) copy_turn(p, turn + 1, shared);
    const CachePlace place =
        find_places<kChunk, S::kScaled>(launch, tile, position_of_turn(turn + 2));
    const int32_t chunk = chunk_of_turn(turn);
    if (last_position(chunk) <= min_position(rows)) {
      attend_chunk<false>(p, turn, chunk, rows, q, shared, part);
    } else if (chunk * kChunk <= max_position(rows)) {
      attend_chunk<true>(p, turn, chunk, rows, q, shared, part);
    }
    store_places(place, shared.places[(turn + 2) % kPlaces]);
    if (S::kScaled && more) receive_turn(turn + 1, shared);
    if ((turn + 1) % kChunksPerSplit != 0 && more) continue;
    finish_split<kShared, S>(launch, tile, rows, chunk / kChunksPerSplit, part, total);
  }
  finish_rows<kShared, S>(launch, tile, rows, total);
}

// --- host ---

template <int kHeadDim, typename Element>
void LaunchPrompt(const AttentionLaunch& launch, const AttentionGrid& grid, cudaStream_t stream) {
  using Memory = PromptMemory<MmaShape<kHeadDim, Element>>;
  static_assert(sizeof(Memory) <= 99 * 1024, "a block of sm_86 has no more");
  const bool shared = launch.p.partials != nullptr;
  LaunchTiles("AttentionPrompt",
              shared ? AttentionPromptKernel<kHeadDim, Element, true>
                     : AttentionPromptKernel<kHeadDim, Element, false>,
              sizeof(Memory), launch, grid, stream);
}

}  // namespace

void LaunchAttentionPrompt(const AttentionLaunch& launch, const AttentionGrid& grid,
                           cudaStream_t stream) {
  WithAttentionShape<32, kMaxPromptHeadDim>(launch.p, [&]<int kHeadDim, typename Element>() {
    LaunchPrompt<kHeadDim, Element>(launch, grid, stream);
  });
}

}  // namespace intermix::cuda
