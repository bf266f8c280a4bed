// Paged attention: one kernel for prefill and decode, and the merge of splits.
//
// A block has one K/V head and up to kRows rows (token, query head) of one sequence, tokens outer.
// It walks splits of kAttentionSplit positions in chunks of kChunk: scores of all rows, their
// maxima through shared memory, weights p to shared memory, p . V. Four warps share each product,
// as rows x positions and as rows x columns. The sum of a row's weights is one more column of V,
// all ones: it has the order of the other columns and is of the rounded weights.
#include <algorithm>

#include "kernels/cuda/attention.h"
#include "kernels/cuda/attention_chunk_sm80.h"
#include "kernels/cuda/attention_fragments_sm80.h"
#include "kernels/cuda/attention_tile.h"
#include "kernels/cuda/attention_types.h"
#include "kernels/cuda/attention_unfinite.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/row_grid.h"

namespace intermix::cuda {
namespace {

template <typename S>
__device__ void clear(Partial<S>& part) {
#pragma unroll
  for (int m = 0; m < S::kWarpRowTiles; ++m) {
    part.max[m][0] = part.max[m][1] = -infinity();
#pragma unroll
    for (int n = 0; n <= S::kOutTiles; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) part.out[m][n][i] = 0.0f;
    }
  }
}

// Merges a finished split into the total. A row that ends before the split has factors 1 and 0.
template <typename S>
__device__ void merge_split(const Partial<S>& part, Partial<S>& total) {
#pragma unroll
  for (int m = 0; m < S::kWarpRowTiles; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const MergeFactors factors = merge_factors(total.max[m][half], part.max[m][half]);
      total.max[m][half] = factors.max;
#pragma unroll
      for (int n = 0; n <= S::kOutTiles; ++n) {
#pragma unroll
        for (int i = half * 2; i < half * 2 + 2; ++i) {
          total.out[m][n][i] = merged(factors, total.out[m][n][i], part.out[m][n][i]);
        }
      }
    }
  }
}

// Writes the rows whose last split is at most `last_split` to out.
template <typename S>
__device__ void store_out(const AttentionParams& p, const ThreadPlace& at,
                          const TileMemory<S>& shared, const Partial<S>& part, int32_t last_split) {
#pragma unroll
  for (int m = 0; m < S::kWarpRowTiles; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int32_t row = fragment_row<S>(at, m, half);
      const int32_t position = shared.positions[row];
      if (position < 0 || position / kAttentionSplit > last_split) continue;
      uint16_t* to = p.out + shared.tokens[row] * p.out_stride + shared.heads[row] * p.head_dim;
      const float sum = part.out[m][S::kOutTiles][half * 2];
#pragma unroll
      for (int n = 0; n < S::kOutTiles; ++n) {
        const int32_t column = out_column<S>(at, n);
        if (column >= p.head_dim) continue;
        const float2 pair = out_pair(part, m, n, half);
        *reinterpret_cast<uint32_t*>(to + column) = normalized_pair(pair.x, pair.y, sum);
      }
    }
  }
}

// Writes one split of the rows that have several to the scratch memory.
template <typename S>
__device__ void store_partials(const AttentionParams& p, const ThreadPlace& at,
                               const TileMemory<S>& shared, const Partial<S>& part, int32_t split) {
#pragma unroll
  for (int m = 0; m < S::kWarpRowTiles; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int32_t row = fragment_row<S>(at, m, half);
      const int32_t position = shared.positions[row];
      if (position < kAttentionSplit || position < split * kAttentionSplit) continue;
      const int64_t index =
          (static_cast<int64_t>(split) * p.tokens + shared.tokens[row]) * p.num_heads +
          shared.heads[row];
      float* to = p.partials + index * p.head_dim;
#pragma unroll
      for (int n = 0; n < S::kOutTiles; ++n) {
        const int32_t column = out_column<S>(at, n);
        if (column >= p.head_dim) continue;
        *reinterpret_cast<float2*>(to + column) = out_pair(part, m, n, half);
      }
      if (out_column<S>(at, 0) == 0)
        p.stats[index] = {part.max[m][half], part.out[m][S::kOutTiles][half * 2]};
    }
  }
}

// --- kernels ---

// blockIdx: x the tile's slot, y the group of heads, z the first split; a block takes every
// gridDim.z-th split. K of the next chunk is on its way while V is used, V while K is.
template <int kHeadDim, int kRowTiles, typename Element>
__global__ void __launch_bounds__(kThreads, kRowTiles == 1 && kHeadDim <= 128 ? 4 : 2)
    PagedAttentionKernel(const __grid_constant__ AttentionLaunch launch) {
  start_early();
  using S = TileShape<kHeadDim, kRowTiles, Element>;
  const AttentionParams& p = launch.p;
  auto& shared = *reinterpret_cast<TileMemory<S>*>(shared_memory());
  auto chunk = static_cast<int32_t>(blockIdx.z) * kChunksPerSplit;
  int32_t buffer = 0;
  {
    const Tile tile = find_tile<S>(launch);
    if (tile.rows == 0 || chunk * kChunk > tile.max_position) return;
    if (threadIdx.x == 0) shared.tile = tile;
    store_place(cache_place<S>(launch, tile, chunk), buffer, shared);
    load_queries(launch, tile, shared);
  }
  sync_block();
  copy_chunk<S>(p, p.k, shared.pieces[buffer], shared.k);
  cp_async_commit();

  const ThreadPlace at = thread_place<S>();
  const auto skip = static_cast<int32_t>(gridDim.z - 1) * kChunksPerSplit;
  Partial<S> part;
  Partial<S> total;
  clear(part);
  clear(total);
  for (bool more = true; more;) {
    const int32_t next = chunk + 1 + ((chunk + 1) % kChunksPerSplit == 0 ? skip : 0);
    more = next * kChunk <= shared.tile.max_position;
    cp_async_wait<0>();
    sync_block();  // K is here; V and the weights of the last chunk are no longer read
    copy_chunk<S>(p, p.v, shared.pieces[buffer], shared.v);
    cp_async_commit();
    const CachePlace next_place = cache_place<S>(launch, shared.tile, next);

    float scores[S::kWarpRowTiles][S::kScoreTiles][4];
    score_chunk(at, shared, scores);
    mask_and_max(p, at, chunk, buffer, scores, shared);
    buffer ^= 1;
    store_place(next_place, buffer, shared);
    sync_block();  // the maxima are here; K is no longer read
    if (more) copy_chunk<S>(p, p.k, shared.pieces[buffer], shared.k);
    cp_async_commit();

    weigh_chunk(at, buffer ^ 1, scores, part, shared);
    cp_async_wait<1>();
    sync_block();  // V and the weights are here
    if constexpr (!S::kScaled) {
      if (is_ragged(shared.tile, chunk) && find_unfinite(chunk, shared)) {
        add_unfinite(at, chunk, shared, part);
      }
    }
    accumulate_chunk(at, shared, part);

    const int32_t split = chunk / kChunksPerSplit;
    if (!more || next / kChunksPerSplit != split) {
      if (S::kSplits && p.partials != nullptr) {
        if (split == 0) store_out(p, at, shared, part, 0);
        store_partials(p, at, shared, part, split);
      } else {
        merge_split(part, total);
      }
      clear(part);
    }
    chunk = next;
  }
  if (!S::kSplits || p.partials == nullptr) {
    store_out(p, at, shared, total, shared.tile.max_position / kAttentionSplit);
  }
}

// Merges the splits of every row that has several, ascending; one warp per (token, head).
__global__ void MergeSplitsKernel(AttentionParams p) {
  start_early();
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarp;
  const int64_t rows = static_cast<int64_t>(p.tokens) * p.num_heads;
  if (row >= rows) return;
  const int64_t token = row / p.num_heads;
  const int32_t splits = p.positions[token] / kAttentionSplit + 1;
  if (splits == 1) return;
  for (auto d = static_cast<int32_t>(threadIdx.x % kWarp) * 4; d < p.head_dim; d += kWarp * 4) {
    float2 stats = p.stats[row];
    float4 out = *reinterpret_cast<const float4*>(p.partials + row * p.head_dim + d);
#pragma unroll 4
    for (int32_t s = 1; s < splits; ++s) {
      const int64_t index = s * rows + row;
      const float2 next = p.stats[index];
      const float4 x = *reinterpret_cast<const float4*>(p.partials + index * p.head_dim + d);
      const MergeFactors factors = merge_factors(stats.x, next.x);
      stats = {factors.max, merged(factors, stats.y, next.y)};
      out = {merged(factors, out.x, x.x), merged(factors, out.y, x.y), merged(factors, out.z, x.z),
             merged(factors, out.w, x.w)};
    }
    uint16_t* to = p.out + token * p.out_stride + row % p.num_heads * p.head_dim + d;
    *reinterpret_cast<uint2*>(to) = {normalized_pair(out.x, out.y, stats.y),
                                     normalized_pair(out.z, out.w, stats.y)};
  }
}

// --- host ---

struct GroupCounts {
  int32_t groups = 0;
  int32_t largest = 0;  // heads
};

GroupCounts FillGroups(std::span<const int32_t> kv_head_of, int64_t num_kv_heads,
                       HeadGroups& groups) {
  GroupCounts counts;
  size_t used = 0;
  for (int64_t kv_head = 0; kv_head < num_kv_heads; ++kv_head) {
    const size_t begin = used;
    for (size_t h = 0; h < kv_head_of.size(); ++h) {
      if (kv_head_of[h] == kv_head) groups.heads[used++] = static_cast<uint16_t>(h);
    }
    if (used == begin) continue;
    groups.starts[counts.groups] = static_cast<uint16_t>(begin);
    groups.kv_heads[counts.groups] = static_cast<uint16_t>(kv_head);
    ++counts.groups;
    counts.largest = std::max(counts.largest, static_cast<int32_t>(used - begin));
  }
  groups.starts[counts.groups] = static_cast<uint16_t>(used);
  CHECK_EQ(used, kv_head_of.size()) << "of " << num_kv_heads << " K/V heads";
  return counts;
}

// The splits of the longest sequence that the block tables allow.
int64_t MaxSplits(const PagedAttentionArgs& args, const AttentionParams& p) {
  const int64_t max_positions = args.rows.block_tables.cols() * int64_t{p.block_size};
  return (max_positions + kAttentionSplit - 1) / kAttentionSplit;
}

// Whether splits can be computed at once: there are some, and their partial results have a place.
bool CanSplit(const PagedAttentionArgs& args, const AttentionParams& p) {
  const int64_t splits = MaxSplits(args, p);
  const int64_t scratch = args.scratch.empty() ? 0 : args.scratch.num_elements();
  return splits > 1 && scratch >= PagedAttentionScratch(p.tokens, p.num_heads, p.head_dim,
                                                        splits * kAttentionSplit);
}

template <int kRowTiles>
int64_t NumSlots(const AttentionParams& p, const GroupCounts& counts) {
  return int64_t{p.tokens} * counts.largest / (16 * kRowTiles) + p.sequences;
}

// `splits`: how many blocks share the splits of a tile.
template <int kHeadDim, int kRowTiles, typename Element>
void LaunchTiles(const AttentionLaunch& launch, const GroupCounts& counts, int64_t splits,
                 cudaStream_t stream) {
  using Memory = TileMemory<TileShape<kHeadDim, kRowTiles, Element>>;
  static_assert(sizeof(Memory) <= 99 * 1024, "a block of sm_86 has no more");
  Launch("PagedAttention", PagedAttentionKernel<kHeadDim, kRowTiles, Element>,
         {.grid = dim3(static_cast<unsigned>(NumSlots<kRowTiles>(launch.p, counts)),
                       static_cast<unsigned>(counts.groups), static_cast<unsigned>(splits)),
          .block = dim3(kThreads),
          .shared_bytes = sizeof(Memory),
          .stream = stream,
          .early = true},
         launch);
}

// Small tiles, with enough blocks for each tile's splits to fill the device.
template <int kHeadDim, typename Element>
void LaunchSmallTiles(const PagedAttentionArgs& args, AttentionLaunch& launch,
                      const GroupCounts& counts, cudaStream_t stream) {
  constexpr int64_t kBlocksPerMultiprocessor = 8;
  AttentionParams& p = launch.p;
  const int64_t blocks = NumSlots<1>(p, counts) * counts.groups;
  const int64_t wanted = kBlocksPerMultiprocessor * args.num_multiprocessors;
  const int64_t shares = std::min((wanted + blocks - 1) / blocks, MaxSplits(args, p));
  if (shares < 2 || !CanSplit(args, p)) {
    LaunchTiles<kHeadDim, 1, Element>(launch, counts, 1, stream);
    return;
  }
  const int64_t rows = int64_t{p.tokens} * p.num_heads;
  p.partials = args.scratch.data<float>();
  p.stats = reinterpret_cast<float2*>(p.partials + MaxSplits(args, p) * rows * p.head_dim);
  LaunchTiles<kHeadDim, 1, Element>(launch, counts, shares, stream);
  Launch("MergeSplits", MergeSplitsKernel,
         {.grid = dim3(static_cast<unsigned>((rows + kWarps - 1) / kWarps)),
          .block = dim3(kThreads),
          .stream = stream,
          .early = true},
         p);
}

// Small tiles where a sequence has few rows, as in decode, and where large ones would leave most of
// the device idle over long sequences.
template <int kHeadDim, typename Element>
void LaunchHeadDim(const PagedAttentionArgs& args, AttentionLaunch& launch,
                   const GroupCounts& counts, cudaStream_t stream) {
  constexpr int kLargeTile = kHeadDim > 128 ? 2 : 4;  // what registers and shared memory hold
  const AttentionParams& p = launch.p;
  const bool few_rows = int64_t{p.tokens} * counts.largest <= int64_t{p.sequences} * 16;
  const int64_t large_blocks = NumSlots<kLargeTile>(p, counts) * counts.groups;
  if (few_rows || (large_blocks < args.num_multiprocessors && CanSplit(args, p))) {
    LaunchSmallTiles<kHeadDim, Element>(args, launch, counts, stream);
  } else {
    LaunchTiles<kHeadDim, kLargeTile, Element>(launch, counts, 1, stream);
  }
}

// Of head_dim 64 and more, and of less where four warps would share fewer than the 16 columns that
// an int8 fragment has.
template <typename Element>
void LaunchLargeHeadDim(const PagedAttentionArgs& args, AttentionLaunch& launch,
                        const GroupCounts& counts, cudaStream_t stream) {
  if (launch.p.head_dim <= 64) {
    LaunchHeadDim<64, Element>(args, launch, counts, stream);
  } else if (launch.p.head_dim <= 128) {
    LaunchHeadDim<128, Element>(args, launch, counts, stream);
  } else {
    LaunchHeadDim<256, Element>(args, launch, counts, stream);
  }
}

bool SameLayout(const Tensor& a, const Tensor& b) {
  return a.dtype() == b.dtype() && a.stride(0) == b.stride(0) && a.stride(1) == b.stride(1) &&
         a.stride(2) == b.stride(2);
}

void CheckCache(const KvLayer& cache) {
  const DType dtype = cache.quantized() ? DType::kI8 : DType::kBF16;
  const int64_t piece = cache.quantized() ? 16 : 8;
  CHECK(cache.k.dtype() == dtype && SameLayout(cache.k, cache.v))
      << cache.k.ToString() << " and " << cache.v.ToString();
  CHECK(!cache.quantized() || SameLayout(cache.k_scales, cache.v_scales))
      << cache.k_scales.ToString() << " and " << cache.v_scales.ToString();
  CHECK_EQ(cache.k.shape(3) % piece, 0) << "rows of whole 16-byte pieces";
  CHECK_LE(cache.k.shape(3), kMaxHeadDim);
  CHECK_LT(cache.k.shape(0) * cache.k.stride(0) / piece, int64_t{1} << 31)
      << "16-byte pieces of a layer's cache";
  CHECK(RowsAligned(cache.k, 16) && RowsAligned(cache.v, 16))
      << "a cache of unaligned rows, " << cache.k.ToString();
}

AttentionParams ParamsOf(const PagedAttentionArgs& args) {
  constexpr float kLog2e = 1.44269504f;
  const Tensor& k = args.cache.k;
  const Tensor& scales = args.cache.k_scales;
  const bool quantized = args.cache.quantized();
  const int64_t piece = 16 / static_cast<int64_t>(ByteSize(k.dtype()));
  return {.q = args.q.data<float>(),
          .k = k.raw(),
          .v = args.cache.v.raw(),
          .k_scales = quantized ? scales.data<float>() : nullptr,
          .v_scales = quantized ? args.cache.v_scales.data<float>() : nullptr,
          .out = reinterpret_cast<uint16_t*>(args.out.data<BFloat16>()),
          .positions = args.rows.positions.data<int32_t>(),
          .query_starts = args.rows.query_starts.data<int32_t>(),
          .block_tables = args.rows.block_tables.data<int32_t>(),
          .partials = nullptr,
          .stats = nullptr,
          .q_stride = args.q.stride(0),
          .out_stride = args.out.stride(0),
          .table_stride = args.rows.block_tables.stride(0),
          .block_pieces = static_cast<int32_t>(k.stride(0) / piece),
          .head_pieces = static_cast<int32_t>(k.stride(1) / piece),
          .position_pieces = static_cast<int32_t>(k.stride(2) / piece),
          .block_scales = static_cast<int32_t>(quantized ? scales.stride(0) : 0),
          .head_scales = static_cast<int32_t>(quantized ? scales.stride(1) : 0),
          .tokens = static_cast<int32_t>(args.q.rows()),
          .sequences = static_cast<int32_t>(args.rows.query_starts.rows() - 1),
          .num_heads = static_cast<int32_t>(args.kv_head_of.size()),
          .head_dim = static_cast<int32_t>(k.shape(3)),
          .block_size = static_cast<int32_t>(k.shape(2)),
          .scale_log2e = args.scale * kLog2e};
}

}  // namespace

void PagedAttention(const PagedAttentionArgs& args, cudaStream_t stream) {
  const Tensor& k = args.cache.k;
  const int64_t head_dim = k.shape(3);
  const auto num_heads = static_cast<int64_t>(args.kv_head_of.size());
  CHECK_EQ(args.q.cols(), num_heads * head_dim);
  CHECK_EQ(args.out.cols(), num_heads * head_dim);
  CHECK_EQ(args.out.rows(), args.q.rows());
  CHECK_LE(num_heads, kMaxHeads);
  CheckCache(args.cache);
  CHECK(RowsAligned(args.q, 16) && RowsAligned(args.out, 8) && RowsAligned(args.scratch, 16))
      << "attention over unaligned rows of " << args.q.ToString();
  if (args.q.rows() == 0) return;
  AttentionLaunch launch = {.p = ParamsOf(args), .groups = {}};
  const GroupCounts counts = FillGroups(args.kv_head_of, k.shape(1), launch.groups);
  if (!args.cache.quantized() && head_dim <= 32) {
    LaunchHeadDim<32, uint16_t>(args, launch, counts, stream);
  } else if (args.cache.quantized()) {
    LaunchLargeHeadDim<int8_t>(args, launch, counts, stream);
  } else {
    LaunchLargeHeadDim<uint16_t>(args, launch, counts, stream);
  }
}

}  // namespace intermix::cuda
