// Paged attention: which kernels a launch takes, and the merge of splits computed at once.
#include <algorithm>

#include "kernels/cuda/attention.h"
#include "kernels/cuda/attention_kernels.h"
#include "kernels/cuda/attention_softmax.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/row_grid.h"

namespace intermix::cuda {
namespace {

// Merges the splits of a row that has several, ascending. A block has one (token, head), a thread
// two of its columns. The splits of a batch are on their way together; in groups, since a merge
// with nothing costs less than a branch, and changes nothing.
__global__ void MergeSplitsKernel(AttentionParams p) {
  constexpr int kBatch = 16;
  constexpr int kGroup = 4;
  let_next_kernel_start();
  const auto row = static_cast<int32_t>(blockIdx.x);
  const int32_t token = row / p.num_heads;
  const int32_t head = row - token * p.num_heads;
  const auto column = static_cast<int32_t>(threadIdx.x) * 2;
  const int32_t splits = p.positions[token] / kAttentionSplit + 1;  // the step's input
  const int64_t rows = int64_t{p.tokens} * p.num_heads;
  const float2* stats_from = p.stats + row;
  const float* from = p.partials + int64_t{row} * p.head_dim + column;
  wait_for_kernels_ahead();
  if (splits == 1 || column >= p.head_dim) return;
  float2 total = {-infinity(), 0.0f};  // maximum and sum
  float2 out = {0.0f, 0.0f};
  for (int32_t first = 0; first < splits; first += kBatch) {
    float2 stats[kBatch];
    float2 x[kBatch];
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      if (i % kGroup == 0 && first + i >= splits) break;
      stats[i] = {-infinity(), 0.0f};
      x[i] = {0.0f, 0.0f};
      if (first + i < splits) {
        stats[i] = *stats_from;
        x[i] = *reinterpret_cast<const float2*>(from);
      }
      stats_from += rows;
      from += rows * p.head_dim;
    }
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      if (i % kGroup == 0 && first + i >= splits) break;
      const MergeFactors factors = merge_factors(total.x, stats[i].x);
      total = {factors.max, merged(factors, total.y, stats[i].y)};
      out = {merged(factors, out.x, x[i].x), merged(factors, out.y, x[i].y)};
    }
  }
  uint16_t* to = p.out + token * p.out_stride + head * p.head_dim + column;
  *reinterpret_cast<uint32_t*>(to) = normalized_pair(out.x, out.y, total.y);
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

// A launch before it has scratch memory.
struct Prepared {
  AttentionLaunch launch;
  AttentionGrid grid;  // with as many shares as are worth it
  bool few_rows = false;
};

// The grid of tiles of `tile_rows` rows, and how many blocks share the splits of each so that about
// `wanted` blocks have work.
AttentionGrid GridOf(const PagedAttentionArgs& args, const GroupCounts& counts, int64_t tile_rows,
                     int64_t wanted, const AttentionParams& p) {
  const int64_t rows = int64_t{p.tokens} * counts.largest;
  const int64_t tiles = std::max<int64_t>((rows + tile_rows - 1) / tile_rows, p.sequences);
  // first_slot of the sequence behind the last. Blocks without rows hold the places of others.
  const int64_t most = std::min(rows / tile_rows + p.sequences,
                                p.tokens * ((counts.largest + tile_rows - 1) / tile_rows));
  return {.tiles = most * counts.groups,
          .shares = std::clamp<int64_t>(wanted / (tiles * counts.groups), 1,
                                        std::max<int64_t>(MaxSplits(args, p), 1))};
}

// What the splits need that are computed at once.
int64_t ScratchOf(const PagedAttentionArgs& args, const Prepared& prepared) {
  const AttentionParams& p = prepared.launch.p;
  return prepared.grid.shares == 1 ? 0
                                   : PagedAttentionScratch(p.tokens, p.num_heads, p.head_dim,
                                                           MaxSplits(args, p) * kAttentionSplit);
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
  CHECK(!cache.quantized() ||
        (SameLayout(cache.k_scales, cache.v_scales) && cache.k_scales.stride(2) == 1))
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
          .num_groups = 0,
          .head_dim = static_cast<int32_t>(k.shape(3)),
          .block_size = static_cast<int32_t>(k.shape(2)),
          .block_reciprocal = ((uint64_t{1} << 32) + static_cast<uint64_t>(k.shape(2)) - 1) /
                              static_cast<uint64_t>(k.shape(2)),
          .scale_log2e = args.scale * kLog2e};
}

// Large tiles where sequences have many rows.
Prepared Prepare(const PagedAttentionArgs& args) {
  Prepared prepared = {.launch = {.p = ParamsOf(args), .groups = {}}, .grid = {}};
  AttentionParams& p = prepared.launch.p;
  const GroupCounts counts =
      FillGroups(args.kv_head_of, args.cache.k.shape(1), prepared.launch.groups);
  p.num_groups = counts.groups;
  const int64_t rows = int64_t{p.tokens} * counts.largest;
  prepared.few_rows = rows <= int64_t{p.sequences} * kDecodeRows || p.head_dim > kMaxPromptHeadDim;
  const int64_t per_multiprocessor = prepared.few_rows ? kDecodeBlocks : kPromptBlocks;
  prepared.grid = GridOf(args, counts, prepared.few_rows ? kDecodeRows : kPromptRows,
                         per_multiprocessor * args.num_multiprocessors, p);
  return prepared;
}

}  // namespace

int64_t PagedAttentionScratch(const PagedAttentionArgs& args) {
  return args.q.rows() == 0 ? 0 : ScratchOf(args, Prepare(args));
}

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
  // For the reciprocal to divide exactly.
  CHECK_LT(args.rows.block_tables.cols() * k.shape(2) * k.shape(2), int64_t{1} << 32);
  if (args.q.rows() == 0) return;
  Prepared prepared = Prepare(args);
  AttentionParams& p = prepared.launch.p;
  const int64_t given = args.scratch.empty() ? 0 : args.scratch.num_elements();
  if (given < ScratchOf(args, prepared)) prepared.grid.shares = 1;
  if (prepared.grid.shares > 1) {
    p.partials = args.scratch.data<float>();
    p.stats = reinterpret_cast<float2*>(p.partials + MaxSplits(args, p) * p.tokens *
                                                         int64_t{p.num_heads} * p.head_dim);
  }
  // Small heads of a prompt would leave half of wgmma's columns empty.
  const bool wgmma = args.wgmma && (args.cache.quantized() || head_dim > kWgmmaHeadDim / 2);
  const auto launch = prepared.few_rows ? LaunchAttentionDecode
                      : wgmma           ? LaunchAttentionPromptWgmma
                                        : LaunchAttentionPrompt;
  launch(prepared.launch, prepared.grid, stream);
  if (prepared.grid.shares == 1) return;
  Launch("MergeSplits", MergeSplitsKernel,
         {.grid = dim3(static_cast<unsigned>(int64_t{p.tokens} * p.num_heads)),
          .block = dim3(RowBlock(head_dim / 2, kMaxHeadDim)),
          .stream = stream,
          .early = true},
         p);
}

}  // namespace intermix::cuda
