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
  using Places = CachePlaces<kPositions, CacheShape<kHeadDim, Element>::kScaled>;
};

// The block's shared memory.
template <typename S>
struct DecodeMemory {
  alignas(16) typename S::Element chunks[S::kSlots][S::kChunkElements];
  // The weights, and of an int8 cache those times v's scales.
  alignas(16) uint16_t weights[S::kScaled ? 2 : 1][kWarpRows * S::kWeightStride];
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

// Copies chunks in the order of their use: k's of a step, v's of a step.
template <typename S>
struct Feed {
  int32_t step = 0;
  int32_t chunk = 0;  // of the step's 2 * kStepChunks
  int32_t slot = 0;

  __device__ void Copy(const AttentionParams& p, const Tile& tile, DecodeMemory<S>& shared) {
    if (step_position<S>(step) <= tile.max_position) {
      const bool is_key = chunk < S::kStepChunks;
      const int32_t* places = shared.places[step % 2].pieces + chunk % S::kStepChunks * kChunk;
      copy_pieces(is_key ? p.k : p.v, thread_pieces<S>(p, places), shared.chunks[slot], S::kStride,
                  S::kPiece);
    }
    cp_async_commit();
    slot = slot + 1 == S::kSlots ? 0 : slot + 1;
    chunk = chunk + 1 == 2 * S::kStepChunks ? 0 : chunk + 1;
    step += chunk == 0 ? 1 : 0;
  }
};

// scores[c] = q . k^T of the rows and the warp's 8 positions of chunk c, with an int8 cache's
// scales and the mask; leaves their maxima in shared memory.
//   keys  the chunks' places in the ring
template <typename S>
__device__ void score_step(const typename S::Element* const (&keys)[S::kStepChunks],
                           int32_t position, const typename S::Places& places, const WarpRows& rows,
                           const uint32_t (&q)[S::kQuerySteps][4],
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
  for (int c = 0; c < S::kStepChunks; ++c) {
    const int32_t first = c * kChunk + warp_id() * 8 + lane_id() % 4 * 2;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float max = -infinity();
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        float& score = scores[c][half * 2 + i];
        if constexpr (S::kScaled) score = mul_rn(score, places.k_scales[first + i]);
        if (position + first + i > rows.positions[half]) score = -infinity();
        max = max_nan(max, score);
      }
      max = max_of_row(max);
      if (lane_id() % 4 == 0) {
        shared.maxima[c][half * 8 + lane_id() / 4][warp_id()] = max;
      }
    }
  }
}

// Moves the maxima on and leaves the step's weights in shared memory.
//   factors  what the sums are multiplied by before a chunk's are added
template <typename S>
__device__ void weigh_step(float scale_log2e, int32_t position, const typename S::Places& places,
                           const WarpRows& rows, const float (&scores)[S::kStepChunks][4],
                           float (&maxima)[2], float (&factors)[S::kStepChunks][2],
                           DecodeMemory<S>& shared) {
#pragma unroll
  for (int c = 0; c < S::kStepChunks; ++c) {
    const int32_t first = c * kChunk + warp_id() * 8 + lane_id() % 4 * 2;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int32_t row = half * 8 + lane_id() / 4;
      const auto* of_warps = reinterpret_cast<const float4*>(shared.maxima[c][row]);
      const float4 a = of_warps[0];
      const float4 b = of_warps[1];
      const float max = max_nan(max_nan(max_nan(a.x, a.y), max_nan(a.z, a.w)),
                                max_nan(max_nan(b.x, b.y), max_nan(b.z, b.w)));
      factors[c][half] = raise_max(max, scale_log2e, maxima[half]);
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
//   weights  of the chunk's positions, row 0
//   ragged   some rows may not see all positions
template <typename S>
__device__ void accumulate_chunk(const uint16_t* weights, const typename S::Element* v,
                                 int32_t position, bool ragged, const WarpRows& rows,
                                 Partial<S::kTiles>& part) {
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
      if constexpr (!S::kScaled) {
        if (ragged) {
          keep_finite(b[0], found);
          keep_finite(b[1], found);
        }
      }
#pragma unroll
      for (int step = 0; step < 2; ++step) {
        mma_m16n8k16_bf16(part.out[n], a[step], b[0][step]);
        mma_m16n8k16_bf16(part.out[n + 1], a[step], b[1][step]);
      }
    }
  }
  if constexpr (!S::kScaled) {
    if (!ragged || !any_found(found)) return;
#pragma unroll 1
    for (int t = 0; t < kChunk; t += 16) {
      add_unfinite(weights + t, S::kWeightStride, LinearValues{v + first_column, S::kStride}, t,
                   position, rows, part);
    }
  }
}

// blockIdx: x as in find_tile, y the first split; a block takes every gridDim.y-th split.
template <int kHeadDim, typename Element>
__global__ void __launch_bounds__(kThreads, kHeadDim > 128 ? 1 : 2)
    AttentionDecodeKernel(const __grid_constant__ AttentionLaunch launch) {
  using S = DecodeShape<kHeadDim, Element>;
  const AttentionParams& p = launch.p;
  auto& shared = *reinterpret_cast<DecodeMemory<S>*>(shared_memory());
  const Tile tile = find_tile<kDecodeRows>(launch);  // from the step's inputs alone
  start_early();
  if (tile.rows == 0 || step_position<S>(0) > tile.max_position) return;
  first_places(launch, tile, step_position<S>(0), step_position<S>(1), shared.places);
  sync_block();
  Feed<S> feed;
  for (int i = 0; i < S::kSlots; ++i) feed.Copy(p, tile, shared);
  uint32_t q[S::kQuerySteps][4];
  const WarpRows rows = load_rows<S>(launch, tile, 0, q);
  const int32_t first_column = warp_id() * S::kTiles * 8;

  Partial<S::kTiles> part;
  Partial<S::kTiles> total;
  clear(part);
  clear(total);
  int32_t slot = 0;
  const auto next_chunk = [&] {
    const Element* chunk = shared.chunks[slot];
    slot = slot + 1 == S::kSlots ? 0 : slot + 1;
    return chunk;
  };
  int32_t step = 0;
  for (int32_t position = step_position<S>(0); position <= tile.max_position;
       position = step_position<S>(++step)) {
    if (step == 0) {
      cp_async_wait<S::kSlots - S::kStepChunks>();
    } else {
      cp_async_wait<S::kSlots - 2 * S::kStepChunks>();
    }
    sync_block();  // the keys are here; the last values and weights are no longer read
    for (int c = 0; c < S::kStepChunks && step > 0; ++c) feed.Copy(p, tile, shared);
    const CachePlace later =
        find_places<S::kPositions, S::kScaled>(launch, tile, step_position<S>(step + 2));
    const typename S::Places& places = shared.places[step % 2];
    const Element* keys[S::kStepChunks];
    for (const Element*& k : keys) k = next_chunk();
    float scores[S::kStepChunks][4];
    score_step<S>(keys, position, places, rows, q, scores, shared);
    sync_block();  // the maxima are here; the keys are no longer read
    for (int c = 0; c < S::kStepChunks; ++c) feed.Copy(p, tile, shared);
    float factors[S::kStepChunks][2];
    weigh_step<S>(p.scale_log2e, position, places, rows, scores, part.max, factors, shared);
    cp_async_wait<S::kSlots - S::kStepChunks>();
    sync_block();  // the values and the weights are here
    store_places(later, shared.places[step % 2]);
    for (int c = 0; c < S::kStepChunks; ++c) {
      const Element* v = next_chunk();
      if (first_column >= S::kDim) continue;
      const int32_t first = position + c * kChunk;
      const bool ragged =
          tile.min_position < tile.max_position && first + kChunk - 1 > tile.min_position;
      rescale(factors[c], part);
      accumulate_chunk<S>(shared.weights[0] + c * kChunk, v, first, ragged, rows, part);
    }
    if ((step + 1) % S::kStepsPerSplit != 0 && step_position<S>(step + 1) <= tile.max_position) {
      continue;
    }
    const int32_t split = position / kAttentionSplit;
    if (p.partials != nullptr) {
      if (split == 0) store_out<S>(launch, tile, rows, part, first_column, 0);
      store_partials<S>(launch, tile, rows, part, first_column, split);
    } else {
      MergeFactors unused[2];
      merge_split(part, total, unused);
    }
    clear(part);
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
