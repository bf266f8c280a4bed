// Paged attention of few rows of a sequence, as in decode: what counts is that the cache streams.
//
// A block has one K/V head and up to 16 rows (token, query head) of one sequence, and works on
// steps of kStepChunks chunks. Chunks of k and v are copied in the order of their use through a
// ring of kSlots, so that the next ones are always on their way. Of a step's scores a warp has 8
// positions of each chunk; row maxima and weights go through shared memory; of the output a warp
// has 16 or more columns. The order of a row's sums is that of attention_prompt_sm80.
#include "kernels/cuda/attention_cache.h"
#include "kernels/cuda/attention_kernels.h"
#include "kernels/cuda/attention_tile.h"
#include "kernels/cuda/attention_unfinite.h"

namespace intermix::cuda {
namespace {

template <int kHeadDim, typename Element>
struct DecodeShape : CacheShape<kHeadDim, Element> {
  static constexpr bool kWide = kHeadDim * sizeof(Element) > 256;
  static constexpr int kStepChunks = kWide ? 1 : 2;
  static constexpr int kSlots = kWide ? 2 : kHeadDim > 128 ? 4 : 5;
  static constexpr int kPositions = kStepChunks * kChunk;  // of a step
  static constexpr int kStepsPerSplit = kAttentionSplit / kPositions;
  static constexpr int kTiles = kHeadDim > 128 ? 4 : 2;  // of 8 columns, a warp's
  static constexpr int kWeightStride = kPositions + 8;   // ldmatrix has no conflicts
  static constexpr int kQueryStride = kHeadDim + 8;
  using Places = CachePlaces<kPositions, CacheShape<kHeadDim, Element>::kScaled>;
};

// The block's shared memory.
template <typename S>
struct DecodeMemory {
  alignas(16) typename S::Element chunks[S::kSlots][S::kChunkElements];
  // The weights, and of an int8 cache those times v's scales.
  alignas(16) uint16_t weights[S::kScaled ? 2 : 1][kWarpRows * S::kWeightStride];
  alignas(16) uint16_t queries[kWarpRows * S::kQueryStride];
  alignas(16) float maxima[S::kStepChunks][kWarpRows][kWarps];
  typename S::Places places[2];  // of the step in use and the next
};

// The steps of a block: every gridDim.y-th split.
template <typename S>
__device__ int32_t step_position(int32_t step) {
  const int32_t split =
      static_cast<int32_t>(blockIdx.y) + step / S::kStepsPerSplit * static_cast<int32_t>(gridDim.y);
  return split * kAttentionSplit + step % S::kStepsPerSplit * S::kPositions;
}

// The tile's queries, on their way to shared memory as bfloat16: a thread's pieces of 4 elements.
// Zeros beyond the last row and head_dim.
template <typename S>
struct QueryPieces {
  static constexpr int kOfRow = S::kDim / 4;
  static constexpr int kCount = (kWarpRows * kOfRow + kThreads - 1) / kThreads;
  const float* from[kCount];  // null: zeros

  __device__ static int32_t index(int i) {
    return static_cast<int32_t>(threadIdx.x) + i * kThreads;
  }
  __device__ void Find(const AttentionLaunch& launch, const Tile& tile) {
    const AttentionParams& p = launch.p;
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      const int32_t row = index(i) / kOfRow;
      const int32_t column = index(i) % kOfRow * 4;
      from[i] = nullptr;
      if (row >= tile.rows || column >= p.head_dim) continue;
      const RowPlace place = row_place(launch, tile, row);
      from[i] = p.q + place.token * p.q_stride + place.head * p.head_dim + column;
    }
  }
  // Of an int8 cache, each 16 elements in the order of widen_s8: the even ones first.
  __device__ void Copy(DecodeMemory<S>& shared) const {
    float4 x[kCount] = {};
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      if (from[i] != nullptr) x[i] = *reinterpret_cast<const float4*>(from[i]);
    }
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      if (index(i) >= kWarpRows * kOfRow) continue;
      const int32_t column = index(i) % kOfRow * 4;
      uint16_t* row = shared.queries + index(i) / kOfRow * S::kQueryStride;
      if constexpr (S::kScaled) {
        uint16_t* to = row + column / 16 * 16 + column % 16 / 2;
        *reinterpret_cast<uint32_t*>(to) = pack_bf16(x[i].x, x[i].z);
        *reinterpret_cast<uint32_t*>(to + 8) = pack_bf16(x[i].y, x[i].w);
      } else {
        *reinterpret_cast<uint2*>(row + column) = {pack_bf16(x[i].x, x[i].y),
                                                   pack_bf16(x[i].z, x[i].w)};
      }
    }
  }
};

// A thread's fragments of them.
template <typename S>
__device__ void load_queries(const DecodeMemory<S>& shared, uint32_t (&q)[S::kQuerySteps][4]) {
  const uint16_t* from = shared.queries + lane_id() % 16 * S::kQueryStride + lane_id() / 16 * 8;
#pragma unroll
  for (int step = 0; step < S::kQuerySteps; ++step) ldmatrix_x4(q[step], from + step * 16);
}

template <typename S>
__device__ typename S::Element* next_slot(typename S::Element* slot, DecodeMemory<S>& shared) {
  return slot == shared.chunks[S::kSlots - 1] ? shared.chunks[0] : slot + S::kChunkElements;
}

// Copies chunks in the order of their use: the keys of a step, its values, the next step's keys.
template <typename S>
struct Feed {
  typename S::Element* slot;

  // Of a step, chunk 0 .. 2 * kStepChunks - 1, a constant.
  //   position, places  the step's
  __device__ void Copy(const AttentionParams& p, const Tile& tile, int32_t position,
                       const typename S::Places& places, int chunk, DecodeMemory<S>& shared) {
    const int of_kind = chunk % S::kStepChunks;
    if (position + of_kind * kChunk <= tile.max_position) {
      const ThreadPieces<S> pieces = thread_pieces<S>(p, places.pieces + of_kind * kChunk);
      copy_pieces(chunk < S::kStepChunks ? p.k : p.v, pieces, slot, S::kStride, S::kPiece);
    }
    cp_async_commit();
    slot = next_slot<S>(slot, shared);
  }
};

// scores[c] = q . k^T of the rows and the warp's 8 positions of chunk c, with an int8 cache's
// scales and the mask; leaves their maxima in shared memory. Of rows 8 to 15 only where there are
// such.
//   keys  the chunks' places in the ring; of one beyond the last position, whatever lies there
template <typename S>
__device__ void score_step(const typename S::Element* const (&keys)[S::kStepChunks],
                           int32_t position, const typename S::Places& places, const Tile& tile,
                           const WarpRows& rows, const uint32_t (&q)[S::kQuerySteps][4],
                           float (&scores)[S::kStepChunks][4], DecodeMemory<S>& shared) {
#pragma unroll
  for (int c = 0; c < S::kStepChunks; ++c) {
#pragma unroll
    for (int i = 0; i < 4; ++i) scores[c][i] = 0.0f;
  }
  const int32_t from = warp_id() * 8 * S::kStride + key_offset<S>();
#pragma unroll
  for (int d = 0; d < S::kQuerySteps; d += S::kKeySteps) {
#pragma unroll
    for (int c = 0; c < S::kStepChunks; ++c) {
      uint32_t b[S::kKeySteps][2];
      load_keys<S>(keys[c] + from + d * 16, b);
#pragma unroll
      for (int j = 0; j < S::kKeySteps; ++j) mma_m16n8k16_bf16(scores[c], q[d + j], b[j]);
    }
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    if (half == 1 && tile.rows <= 8) break;
#pragma unroll
    for (int c = 0; c < S::kStepChunks; ++c) {
      const int32_t first = c * kChunk + warp_id() * 8 + lane_id() % 4 * 2;
      float max = -infinity();
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        float& score = scores[c][half * 2 + i];
        if constexpr (S::kScaled) score = mul_rn(score, places.k_scales[first + i]);
        if (position + first + i > rows.positions[half]) score = -infinity();
        max = max_nan(max, score);
      }
      max = max_of_row(max);
      if (lane_id() % 4 == 0) shared.maxima[c][half * 8 + lane_id() / 4][warp_id()] = max;
    }
  }
}

// Moves the maxima on and leaves the step's weights in shared memory, of the same rows.
//   factors  what the sums are multiplied by before a chunk's are added
template <typename S>
__device__ void weigh_step(float scale_log2e, int32_t position, const typename S::Places& places,
                           const Tile& tile, const WarpRows& rows,
                           const float (&scores)[S::kStepChunks][4], float (&maxima)[2],
                           float (&factors)[S::kStepChunks][2], DecodeMemory<S>& shared) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int32_t row = half * 8 + lane_id() / 4;
#pragma unroll
    for (int c = 0; c < S::kStepChunks; ++c) factors[c][half] = 1.0f;
    if (half == 1 && tile.rows <= 8) break;
    float largest[S::kStepChunks];
#pragma unroll
    for (int c = 0; c < S::kStepChunks; ++c) {
      const auto* of_warps = reinterpret_cast<const float4*>(shared.maxima[c][row]);
      const float4 a = of_warps[0];
      const float4 b = of_warps[1];
      largest[c] = max_nan(max_nan(max_nan(a.x, a.y), max_nan(a.z, a.w)),
                           max_nan(max_nan(b.x, b.y), max_nan(b.z, b.w)));
    }
#pragma unroll
    for (int c = 0; c < S::kStepChunks; ++c) {
      const int32_t first = c * kChunk + warp_id() * 8 + lane_id() % 4 * 2;
      factors[c][half] = raise_max(largest[c], scale_log2e, maxima[half]);
      const float shift = finite_shift(maxima[half]);
      const float low = weight(scores[c][half * 2], scale_log2e, shift);
      const float high = weight(scores[c][half * 2 + 1], scale_log2e, shift);
      const int32_t to = row * S::kWeightStride + first;
      *reinterpret_cast<uint32_t*>(shared.weights[0] + to) = pack_bf16(low, high);
      if constexpr (S::kScaled) {
        const auto scaled = [&](float w, int i) {
          const bool seen = position + first + i <= rows.positions[half];
          return seen ? mul_rn(w, places.v_scales[first + i]) : 0.0f;
        };
        *reinterpret_cast<uint32_t*>(shared.weights[1] + to) =
            pack_bf16(scaled(low, 0), scaled(high, 1));
      }
    }
  }
}

// part.out += weights . v of a chunk, for the warp's columns, and the sum of the weights.
//   kRagged  some rows may not see all positions of a bfloat16 cache
//   weights  of the chunk's positions, row 0
template <typename S, bool kRagged>
__device__ void accumulate_chunk(const uint16_t* weights, const typename S::Element* v,
                                 int32_t position, const WarpRows& rows, Partial<S::kTiles>& part) {
  constexpr int kScaledWeights = kWarpRows * S::kWeightStride;
  const uint16_t* weight_rows = weights + lane_id() % 16 * S::kWeightStride + lane_id() / 16 * 8;
  const int32_t first_column = warp_id() * S::kTiles * 8;
  const typename S::Element* from = v + value_offset<S>() + first_column;
  uint32_t found = 0;
#pragma unroll
  for (int t = 0; t < kChunk; t += 32) {
    uint32_t a[2][4];
#pragma unroll
    for (int step = 0; step < 2; ++step) {
      ldmatrix_x4(a[step], weight_rows + t + step * 16);
      add_weights(a[step], part);
      if constexpr (S::kScaled) ldmatrix_x4(a[step], weight_rows + kScaledWeights + t + step * 16);
    }
#pragma unroll
    for (int n = 0; n < S::kTiles; n += 2) {
      uint32_t b[2][2][2];
      load_values<S>(from + t * S::kStride + n * 8, b);
      if constexpr (kRagged) {
        keep_finite(b[0], found);
        keep_finite(b[1], found);
      }
#pragma unroll
      for (int step = 0; step < 2; ++step) {
        mma_m16n8k16_bf16(part.out[n], a[step], b[0][step]);
        mma_m16n8k16_bf16(part.out[n + 1], a[step], b[1][step]);
      }
    }
  }
  if constexpr (kRagged) {
    if (!any_found(found)) return;
#pragma unroll 1
    for (int t = 0; t < kChunk; t += 16) {
      add_unfinite(weights + t, S::kWeightStride, LinearValues{v + first_column, S::kStride}, t,
                   position, rows, part);
    }
  }
}

// blockIdx: x as in find_tile, y the first split; a block takes every gridDim.y-th split.
//
// What it reads before the kernels ahead have ended are the step's inputs, and keys and values of
// positions before the sequence's first of this step: an earlier step left them (PagedRows).
template <int kHeadDim, typename Element>
__global__ void __launch_bounds__(kThreads, kHeadDim > 128 ? 1 : 2)
    AttentionDecodeKernel(const __grid_constant__ AttentionLaunch launch) {
  using S = DecodeShape<kHeadDim, Element>;
  const AttentionParams& p = launch.p;
  auto& shared = *reinterpret_cast<DecodeMemory<S>*>(shared_memory());
  let_next_kernel_start();
  const Tile tile = find_tile<kDecodeRows>(launch);
  int32_t position = step_position<S>(0);
  int32_t next = step_position<S>(1);
  if (tile.rows == 0 || position > tile.max_position) return wait_for_kernels_ahead();
  const int32_t old_positions = p.positions[tile.first_token];
  first_places<2>(launch, tile, step_position<S>, shared.places, old_positions);
  QueryPieces<S> queries;
  queries.Find(launch, tile);
  WarpRows rows = {.first = 0, .positions = {}};
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int32_t row = fragment_row(rows, half);
    const RowPlace place = row_place(launch, tile, row < tile.rows ? row : tile.rows - 1);
    rows.positions[half] = p.positions[place.token];
  }
  sync_block();
  Feed<S> feed = {.slot = shared.chunks[0]};
  // Of the step in use, or of the next where `chunk` is beyond its chunks.
  const auto copy = [&](int32_t step, int chunk) {
    constexpr int kChunks = 2 * S::kStepChunks;
    feed.Copy(p, tile, chunk < kChunks ? position : next,
              shared.places[(step + chunk / kChunks) % 2], chunk % kChunks, shared);
  };
#pragma unroll
  for (int chunk = 0; chunk < S::kSlots; ++chunk) {
    const int32_t first =
        (chunk < 2 * S::kStepChunks ? position : next) + chunk % S::kStepChunks * kChunk;
    if (first + kChunk > old_positions) wait_for_kernels_ahead();
    copy(0, chunk);
  }
  wait_for_kernels_ahead();
  queries.Copy(shared);
  first_new_scales<2>(launch, tile, step_position<S>, shared.places, old_positions);
  const int32_t first_column = warp_id() * S::kTiles * 8;

  Partial<S::kTiles> part;
  Partial<S::kTiles> total;
  clear(part);
  clear(total);
  Element* slot = shared.chunks[0];
  const auto next_chunk = [&] {
    const Element* chunk = slot;
    slot = next_slot<S>(slot, shared);
    return chunk;
  };
  cp_async_wait<S::kSlots - S::kStepChunks>();
  sync_block();  // queries, scales and the first keys are here
  uint32_t q[S::kQuerySteps][4];
  load_queries(shared, q);
  for (int32_t step = 0;;) {
    const int32_t after = step_position<S>(step + 2);
    const CachePlace later = find_places<S::kPositions, S::kScaled>(launch, tile, after);
    const typename S::Places& places = shared.places[step % 2];
    const Element* keys[S::kStepChunks];
    for (const Element*& k : keys) k = next_chunk();
    float scores[S::kStepChunks][4];
    score_step<S>(keys, position, places, tile, rows, q, scores, shared);
    sync_block();  // the maxima are here; the keys are no longer read
#pragma unroll
    for (int c = 0; c < S::kStepChunks; ++c) copy(step, S::kSlots + c);
    float factors[S::kStepChunks][2];
    weigh_step<S>(p.scale_log2e, position, places, tile, rows, scores, part.max, factors, shared);
    cp_async_wait<S::kSlots - S::kStepChunks>();
    sync_block();  // the values and the weights are here
    store_places(later, shared.places[step % 2]);
#pragma unroll
    for (int c = 0; c < S::kStepChunks; ++c) {
      const Element* v = next_chunk();
      const int32_t first = position + c * kChunk;
      if (first_column >= S::kDim || first > tile.max_position) continue;
      const uint16_t* weights = shared.weights[0] + c * kChunk;
      rescale(factors[c], part);
      if (!S::kScaled && tile.min_position < tile.max_position &&
          first + kChunk - 1 > tile.min_position) {
        accumulate_chunk<S, !S::kScaled>(weights, v, first, rows, part);
      } else {
        accumulate_chunk<S, false>(weights, v, first, rows, part);
      }
    }
    const int32_t split = position / kAttentionSplit;
    position = next;
    next = after;
    ++step;
    if (step % S::kStepsPerSplit == 0 || position > tile.max_position) {
      if (p.partials != nullptr) {
        if (split == 0) store_out<S>(launch, tile, rows, part, first_column, 0);
        store_partials<S>(launch, tile, rows, part, first_column, split);
      } else {
        MergeFactors unused[2];
        merge_split(part, total, unused);
      }
      clear(part);
    }
    if (position > tile.max_position) break;
    cp_async_wait<S::kSlots - 2 * S::kStepChunks>();
    sync_block();  // the keys are here; the values and the weights are no longer read
#pragma unroll
    for (int c = 0; c < S::kStepChunks; ++c) copy(step, S::kSlots - S::kStepChunks + c);
  }
  if (p.partials == nullptr) {
    store_out<S>(launch, tile, rows, total, first_column, tile.max_position / kAttentionSplit);
  }
}

// --- host ---

template <int kHeadDim, typename Element>
void LaunchDecode(const AttentionLaunch& launch, const AttentionGrid& grid, cudaStream_t stream) {
  using Memory = DecodeMemory<DecodeShape<kHeadDim, Element>>;
  static_assert(sizeof(Memory) <= 99 * 1024, "a block of sm_86 has no more");
  LaunchTiles("AttentionDecode", AttentionDecodeKernel<kHeadDim, Element>, sizeof(Memory), launch,
              grid, stream);
}

}  // namespace

void LaunchAttentionDecode(const AttentionLaunch& launch, const AttentionGrid& grid,
                           cudaStream_t stream) {
  WithAttentionShape<32, static_cast<int>(kMaxHeadDim)>(
      launch.p, [&]<int kHeadDim, typename Element>() {
        LaunchDecode<kHeadDim, Element>(launch, grid, stream);
      });
}

}  // namespace intermix::cuda
