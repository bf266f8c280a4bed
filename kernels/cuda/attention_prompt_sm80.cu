// Paged attention of prompts: tiles of many rows.
//
// A block has one K/V head and up to kRows rows (token, query head) of one sequence. It walks
// splits of kAttentionSplit positions in chunks of kChunk. Each of its warps has 16 rows over all
// of a chunk, so scores, maxima and weights stay in registers: the fragments of q . k^T are those
// that p . V takes. The next chunk of k and v is on its way meanwhile; one barrier hands it over.
// The sum of a row's weights is one more column of V, all ones: it has the order of the other
// columns and is of the rounded weights.
#include "kernels/cuda/attention_cache.h"
#include "kernels/cuda/attention_kernels.h"
#include "kernels/cuda/attention_tile.h"
#include "kernels/cuda/attention_unfinite.h"
#include "kernels/cuda/launch.h"

namespace intermix::cuda {
namespace {

template <int kHeadDim, typename Element>
struct PromptShape : CacheShape<kHeadDim, Element> {
  using Wide = CacheShape<kHeadDim, uint16_t>;  // of chunks in shared memory
  static constexpr int kTiles = kHeadDim / 8;   // of 8 columns
  static constexpr int kScoreTiles = kChunk / 8;
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
  // Of the splits so far, the last columns: more than registers hold.
  float4 totals[S::kSharedTiles > 0 ? S::kSharedTiles : 1][kThreads];
};

template <typename S>
using Scores = float[S::kScoreTiles][4];

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
      widen_in_place(shared.k[turn % 2] + at);
      widen_in_place(shared.v[turn % 2] + at);
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

// Scales of an int8 cache and the mask join the scores; moves the maxima on and rescales the sums.
template <bool kMasked, typename S>
__device__ void mask_and_rescale(const AttentionParams& p, const float* k_scales, int32_t chunk,
                                 const WarpRows& rows, Scores<S>& scores,
                                 Partial<S::kTiles>& part) {
  const int32_t column = lane_id() % 4 * 2;
  float factors[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float max = -infinity();
#pragma unroll
    for (int n = 0; n < S::kScoreTiles; ++n) {
      float(&pair)[4] = scores[n];
#pragma unroll
      for (int i = half * 2; i < half * 2 + 2; ++i) {
        const int32_t position = column + n * 8 + i % 2;
        if constexpr (S::kScaled) pair[i] = mul_rn(pair[i], k_scales[position]);
        if (kMasked && chunk * kChunk + position > rows.positions[half]) pair[i] = -infinity();
      }
      max = max_nan(max, max_nan(pair[half * 2], pair[half * 2 + 1]));
    }
    factors[half] = raise_max(max_of_row(max), p.scale_log2e, part.max[half]);
  }
  rescale(factors, part);
}

// Scores become weights, as fragments of 16 positions, and their sum is added. Of an int8 cache
// the fragments are the weights times v's scales.
template <bool kMasked, typename S>
__device__ void weigh_chunk(const AttentionParams& p, const float* v_scales, int32_t chunk,
                            const WarpRows& rows, const Scores<S>& scores,
                            uint32_t (&weights)[kChunk / 16][4], Partial<S::kTiles>& part) {
  const int32_t column = lane_id() % 4 * 2;
#pragma unroll
  for (int t = 0; t < kChunk / 16; ++t) {
    float scaled[4][2];
#pragma unroll
    for (int j = 0; j < 4; ++j) {  // of a fragment: rows of half j % 2, tile j / 2
      const int half = j % 2;
      const int n = t * 2 + j / 2;
      float exact[2];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        exact[i] = weight(scores[n][half * 2 + i], p.scale_log2e, finite_shift(part.max[half]));
        if constexpr (S::kScaled) {
          const int32_t position = column + n * 8 + i;
          const bool seen = !kMasked || chunk * kChunk + position <= rows.positions[half];
          scaled[j][i] = seen ? mul_rn(exact[i], v_scales[position]) : 0.0f;
        }
      }
      weights[t][j] = pack_bf16(exact[0], exact[1]);
    }
    add_weights(weights[t], part);
    if constexpr (S::kScaled) {
#pragma unroll
      for (int j = 0; j < 4; ++j) weights[t][j] = pack_bf16(scaled[j][0], scaled[j][1]);
    }
  }
}

// part.out += weights . v; returns what keep_finite found of a masked chunk.
template <bool kMasked, typename S>
__device__ uint32_t accumulate_chunk(const uint16_t* v, const uint32_t (&weights)[kChunk / 16][4],
                                     Partial<S::kTiles>& part) {
  uint32_t found = 0;
  const uint16_t* from = v + value_pair_offset<typename S::Wide>();
#pragma unroll
  for (int t = 0; t < kChunk / 16; ++t) {
#pragma unroll
    for (int n = 0; n < S::kTiles; n += 2) {
      TilePair values = load_value_pair(from + t * 16 * S::Wide::kStride + n * 8);
      if constexpr (kMasked && !S::kScaled) keep_finite(values.b, found);
      mma_m16n8k16_bf16(part.out[n], weights[t], values.b[0]);
      mma_m16n8k16_bf16(part.out[n + 1], weights[t], values.b[1]);
    }
  }
  return found;
}

// Adds what keep_finite took out.
template <typename S>
__device__ void restore_unfinite(const uint32_t (&weights)[kChunk / 16][4], const uint16_t* v,
                                 int32_t chunk, const WarpRows& rows, PromptMemory<S>& shared,
                                 Partial<S::kTiles>& part) {
  uint16_t* to = shared.weights[warp_id()];
#pragma unroll
  for (int t = 0; t < kChunk / 16; ++t) {
    sync_warp();
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int32_t row = j % 2 * 8 + lane_id() / 4;
      const int32_t column = j / 2 * 8 + lane_id() % 4 * 2;
      *reinterpret_cast<uint32_t*>(to + row * 16 + column) = weights[t][j];
    }
    sync_warp();
    add_unfinite(to, 16, v + t * 16 * S::Wide::kStride, S::Wide::kStride, chunk * kChunk + t * 16,
                 rows, part);
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
  const uint16_t* v = shared.v[turn % 2];
  Scores<S> scores;
  uint32_t weights[kChunk / 16][4];
  score_chunk<S>(shared.k[turn % 2], q, scores);
  mask_and_rescale<kMasked, S>(p, k_scales, chunk, rows, scores, part);
  weigh_chunk<kMasked, S>(p, v_scales, chunk, rows, scores, weights, part);
  const uint32_t found = accumulate_chunk<kMasked, S>(v, weights, part);
  if constexpr (kMasked && !S::kScaled) {
    if (any_found(found)) restore_unfinite(weights, v, chunk, rows, shared, part);
  }
}

// What a thread has of all splits: a Partial, of which the last columns are in shared memory.
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

// A block takes the chunks of every gridDim.y-th split in turns.
__device__ inline int32_t chunk_of_turn(int32_t turn) {
  const auto splits = static_cast<int32_t>(gridDim.y);
  return (turn / kChunksPerSplit * splits + static_cast<int32_t>(blockIdx.y)) * kChunksPerSplit +
         turn % kChunksPerSplit;
}
__device__ inline int32_t num_turns(const Tile& tile) {
  const int32_t chunks = tile.max_position / kChunk + 1;
  const auto round = static_cast<int32_t>(gridDim.y) * kChunksPerSplit;
  const int32_t rest = chunks % round - static_cast<int32_t>(blockIdx.y) * kChunksPerSplit;
  const int32_t last = rest < 0 ? 0 : rest < kChunksPerSplit ? rest : kChunksPerSplit;
  return chunks / round * kChunksPerSplit + last;
}

// blockIdx: x as in find_tile, y the first split; a block takes every gridDim.y-th split. kShared:
// splits go to the scratch memory, not to a total.
template <int kHeadDim, typename Element, bool kShared>
__global__ void __launch_bounds__(kThreads, 1)
    AttentionPromptKernel(const __grid_constant__ AttentionLaunch launch) {
  using S = PromptShape<kHeadDim, Element>;
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
  Partial<S::kTiles> part;
  Total<S> total = {.held = {}, .shared = shared.totals};
  clear(part);
  clear(total);
  const int32_t turns = num_turns(tile);
#pragma unroll 1
  for (int32_t turn = 0; turn < turns; ++turn) {
    if (turn == 0 || !S::kScaled) receive_turn(turn, shared);
    sync_block();  // the chunk is here; the one before it is no longer read
    const bool more = turn + 1 < turns;
    if (more) copy_turn(p, turn + 1, shared);
    const CachePlace place =
        find_places<kChunk, S::kScaled>(launch, tile, chunk_of_turn(turn + 2) * kChunk);
    const int32_t chunk = chunk_of_turn(turn);
    if (last_position(chunk) <= min_position(rows)) {
      attend_chunk<false>(p, turn, chunk, rows, q, shared, part);
    } else if (chunk * kChunk <= max_position(rows)) {
      attend_chunk<true>(p, turn, chunk, rows, q, shared, part);
    }
    store_places(place, shared.places[(turn + 2) % kPlaces]);
    if (S::kScaled && more) receive_turn(turn + 1, shared);
    if ((turn + 1) % kChunksPerSplit != 0 && more) continue;
    if constexpr (kShared) {
      const int32_t split = chunk / kChunksPerSplit;
      if (split == 0) store_out<S>(launch, tile, rows, part, 0, 0);
      store_partials<S>(launch, tile, rows, part, 0, split);
    } else {
      merge_split(part, total);
    }
    clear(part);
  }
  if constexpr (!kShared) {
    gather(total, part);
    store_out<S>(launch, tile, rows, part, 0, tile.max_position / kAttentionSplit);
  }
}

// --- host ---

template <int kHeadDim, typename Element>
void LaunchPrompt(const AttentionLaunch& launch, const AttentionGrid& grid, cudaStream_t stream) {
  using Memory = PromptMemory<PromptShape<kHeadDim, Element>>;
  static_assert(sizeof(Memory) <= 99 * 1024, "a block of sm_86 has no more");
  const bool shared = launch.p.partials != nullptr;
  Launch("AttentionPrompt",
         shared ? AttentionPromptKernel<kHeadDim, Element, true>
                : AttentionPromptKernel<kHeadDim, Element, false>,
         {.grid = dim3(static_cast<unsigned>(grid.tiles), static_cast<unsigned>(grid.shares)),
          .block = dim3(kThreads),
          .shared_bytes = sizeof(Memory),
          .stream = stream,
          .early = true},
         launch);
}

}  // namespace

void LaunchAttentionPrompt(const AttentionLaunch& launch, const AttentionGrid& grid,
                           cudaStream_t stream) {
  WithAttentionShape<kMaxPromptHeadDim>(launch.p, [&]<int kHeadDim, typename Element>() {
    LaunchPrompt<kHeadDim, Element>(launch, grid, stream);
  });
}

}  // namespace intermix::cuda
