// CpuBackend: rotary embedding and paged attention. A work item of a prompt is neighbouring rows
// and the heads that share a K/V head, so that K and V are read once for all of them. One of a
// single row is several K/V heads, block after block, so that memory is read in the order in which
// it lies; few rows with a long past are split further, along positions, and merged in the same
// ascending order.
#include <algorithm>

#include "kernels/cpu/cpu_backend_class.h"

namespace intermix::cpu {
namespace {

constexpr int64_t kSplit = kAttentionSplit;
// Queries of one work item: their scores of a split, and K and V of it, fit the second cache.
constexpr int64_t kTileQueries = 64;
constexpr int64_t kMaxQueries = 1024;  // more heads than any model has
constexpr int64_t kMaxRuns = 32;       // of a work item
// Positions of K (or V) that all queries of one K/V head use before the next: they fit the first
// cache.
constexpr int64_t kChunk = 64;
// Below this many multiplications waking other threads costs more than it brings.
constexpr int64_t kSerialWork = int64_t{1} << 17;

// Scratch of one split: the scales of K and V, and scores.
constexpr int64_t SplitFloats(int64_t queries) { return (2 * kMaxRuns + queries) * kSplit; }

constexpr int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace

struct CpuBackend::AttentionCall {
  const Tensor& q;
  const PagedRows& rows;
  const KvLayer& cache;
  float scale;
  const Tensor& out;
  int64_t head_dim;

  int64_t NumSplits(int64_t row) const {
    return CeilDiv(rows.positions.data<int32_t>()[row] + 1, kSplit);
  }
  const int32_t* BlockTable(int64_t row) const {
    const int32_t* starts = rows.query_starts.data<int32_t>();
    const int32_t* end = starts + rows.query_starts.rows();
    return rows.block_tables.row<int32_t>(std::upper_bound(starts, end, row) - starts - 1);
  }
};

// Softmax results of a run of heads, not yet divided by their sums.
struct CpuBackend::Partial {
  float* max;  // [heads]
  float* sum;  // [heads]
  float* out;  // [heads, head_dim]

  static int64_t Floats(int64_t heads, int64_t head_dim) { return heads * (2 + head_dim); }
  static Partial At(float* p, int64_t heads) { return {p, p + heads, p + 2 * heads}; }
  // From head `first` on.
  Partial From(int64_t first, int64_t head_dim) const {
    return {max + first, sum + first, out + first * head_dim};
  }
};

// One head's row to `cache`: rounded, or quantised where there are scales.  x [head_dim]
void CpuBackend::StoreInCache(float* x, int64_t slot, int64_t head, const Tensor& cache,
                              const Tensor& scales) {
  const int64_t block_size = cache.shape(2);
  const int64_t head_dim = cache.shape(3);
  const auto place = [&](const Tensor& t) {
    return slot / block_size * t.stride(0) + head * t.stride(1) + slot % block_size * t.stride(2);
  };
  if (scales.empty()) {
    kernels_.rows.narrow(x, head_dim, &(cache.data<BFloat16>() + place(cache))->bits);
    return;
  }
  QuantizeRow(Tensor(x, DType::kF32, {1, head_dim}), 0, kernels_.rows.abs_max_f32(x, head_dim),
              {.values = Tensor(cache.data<int8_t>() + place(cache), DType::kI8, {1, head_dim}),
               .scales = Tensor(scales.data<float>() + place(scales), DType::kF32, {1})});
}

void CpuBackend::RopeAndStoreKv(Tensor q, Tensor k, const Tensor& v, const Tensor& rope,
                                const PagedRows& rows, const KvLayer& cache) {
  const int64_t head_dim = cache.k.shape(3);
  const int64_t num_kv_heads = cache.k.shape(1);
  CHECK_EQ(q.cols() % head_dim, 0);
  CHECK_EQ(k.cols(), num_kv_heads * head_dim);
  CHECK_EQ(v.cols(), num_kv_heads * head_dim);
  CHECK_EQ(rope.cols(), head_dim);
  ForRows(q.rows(), q.cols() + 2 * k.cols(), [&](int64_t m, int) {
    const int32_t position = rows.positions.data<int32_t>()[m];
    CHECK(position >= 0 && position < rope.rows()) << position << " of " << rope.rows();
    const int32_t slot = rows.slots.data<int32_t>()[m];
    CHECK(slot >= 0 && slot / cache.k.shape(2) < cache.k.shape(0)) << "slot " << slot;
    const float* angles = rope.row<float>(position);
    for (int64_t h = 0; h < q.cols() / head_dim; ++h) {
      kernels_.rows.rotate(q.row<float>(m) + h * head_dim, angles, head_dim / 2);
    }
    for (int64_t h = 0; h < num_kv_heads; ++h) {
      float* key = k.row<float>(m) + h * head_dim;
      kernels_.rows.rotate(key, angles, head_dim / 2);
      StoreInCache(key, slot, h, cache.k, cache.k_scales);
      StoreInCache(v.row<float>(m) + h * head_dim, slot, h, cache.v, cache.v_scales);
    }
  });
}

void CpuBackend::FindHeadRuns(std::span<const int32_t> kv_head_of) {
  head_runs_.clear();
  for (size_t h = 0; h < kv_head_of.size(); ++h) {
    if (head_runs_.empty() || head_runs_.back().kv_head != kv_head_of[h]) {
      head_runs_.push_back({.first = static_cast<int32_t>(h), .kv_head = kv_head_of[h]});
    }
    ++head_runs_.back().count;
  }
}

int64_t CpuBackend::HeadsOf(HeadRuns runs) {
  return runs.back().first + runs.back().count - runs.front().first;
}

void CpuBackend::FindRowTiles(const AttentionCall& call) {
  int64_t most_heads = 1;
  for (const HeadRun& run : head_runs_) most_heads = std::max<int64_t>(most_heads, run.count);
  const int64_t rows_per_tile = std::max<int64_t>(1, kTileQueries / most_heads);
  row_tiles_.clear();
  const Tensor& starts = call.rows.query_starts;
  for (int64_t s = 0; s + 1 < starts.rows(); ++s) {
    const int64_t end = starts.data<int32_t>()[s + 1];
    for (int64_t row = starts.data<int32_t>()[s]; row < end; row += rows_per_tile) {
      row_tiles_.push_back({.first = row, .count = std::min(rows_per_tile, end - row)});
    }
  }
}

// How many runs of heads share an item: all, or fewer where threads would be left without work.
int64_t CpuBackend::RunsPerItem(int64_t items_of_all_runs) const {
  const auto num_runs = static_cast<int64_t>(head_runs_.size());
  const int64_t fair = num_runs * items_of_all_runs / (4 * pool_.num_threads());
  return std::clamp<int64_t>(fair, 1, std::min(num_runs, kMaxRuns));
}

// The scales of K or V at positions [begin, end) of a sequence, for each run of heads.
//   scales  [num_blocks, num_kv_heads, block_size]
//   out     [runs, kSplit]
void CpuBackend::GatherScales(const Tensor& scales, const int32_t* table, int64_t begin,
                              int64_t end, HeadRuns runs, float* out) {
  const int64_t block_size = scales.shape(2);
  for (int64_t t = begin; t < end;) {
    const int64_t stop = std::min(end, (t / block_size + 1) * block_size);
    const float* block = scales.data<float>() + table[t / block_size] * scales.stride(0);
    for (size_t i = 0; i < runs.size(); ++i) {
      const float* row = block + runs[i].kv_head * scales.stride(1) + t % block_size;
      std::copy(row, row + (stop - t), out + static_cast<int64_t>(i) * kSplit + t - begin);
    }
    t = stop;
  }
}

// All of `rows` have the same number of positions in the split; there is one row or one run.
//   scratch  [SplitFloats(rows * heads of the runs)]
//   result   [rows, heads of the runs]
void CpuBackend::AttendSplitOf(const AttentionCall& call, const RowTile& rows, HeadRuns runs,
                               int64_t split, float* scratch, const Partial& result) const {
  CHECK(rows.count == 1 || runs.size() == 1);
  const Tensor& k = call.cache.k;
  const int64_t block_size = k.shape(2);
  const int32_t* table = call.BlockTable(rows.first);
  const int64_t begin = split * kSplit;
  const int64_t end =
      std::min<int64_t>(begin + kSplit, call.rows.positions.data<int32_t>()[rows.first] + 1);
  int64_t offsets[kSplit];
  for (int64_t t = begin; t < end; ++t) {
    offsets[t - begin] = table[t / block_size] * k.stride(0) + t % block_size * k.stride(2);
  }
  const bool quantized = call.cache.quantized();
  float* k_scales = scratch;  // then v's; [runs, kSplit] each
  float* v_scales = scratch + kMaxRuns * kSplit;
  float* scores = scratch + 2 * kMaxRuns * kSplit;
  if (quantized) {
    GatherScales(call.cache.k_scales, table, begin, end, runs, k_scales);
    GatherScales(call.cache.v_scales, table, begin, end, runs, v_scales);
  }
  const float* queries[kMaxQueries];
  AttendSplit parts[kMaxRuns];
  int64_t at = 0;
  for (size_t i = 0; i < runs.size(); ++i) {
    const int64_t head_bytes =
        runs[i].kv_head * k.stride(1) * static_cast<int64_t>(ByteSize(k.dtype()));
    const auto scales_at = static_cast<int64_t>(i) * kSplit;
    parts[i] = {.q = queries + at,
                .num_queries = static_cast<int>(rows.count * runs[i].count),
                .head_dim = call.head_dim,
                .scale = call.scale,
                .k = static_cast<const char*>(k.raw()) + head_bytes,
                .v = static_cast<const char*>(call.cache.v.raw()) + head_bytes,
                .offsets = offsets,
                .k_scales = quantized ? k_scales + scales_at : nullptr,
                .v_scales = quantized ? v_scales + scales_at : nullptr,
                .count = static_cast<int>(end - begin),
                .scores = scores + at * kSplit,
                .max = result.max + at,
                .sum = result.sum + at,
                .out = result.out + at * call.head_dim};
    for (int64_t row = rows.first; row < rows.first + rows.count; ++row) {
      for (int32_t h = runs[i].first; h < runs[i].first + runs[i].count; ++h) {
        queries[at++] = call.q.row<float>(row) + h * call.head_dim;
      }
    }
  }
  const std::span<const AttendSplit> all(parts, runs.size());
  const auto chunk = static_cast<int>(runs.size() == 1 ? kChunk : std::min(block_size, kSplit));
  const int count = all[0].count;
  for (int t = 0; t < count; t += chunk) {
    for (const AttendSplit& part : all) {
      kernels_.rows.attend_scores(part, t, std::min(t + chunk, count));
    }
  }
  for (const AttendSplit& part : all) kernels_.rows.attend_softmax(part);
  for (int t = 0; t < count; t += chunk) {
    for (const AttendSplit& part : all) {
      kernels_.rows.attend_values(part, t, std::min(t + chunk, count));
    }
  }
}

void CpuBackend::MergeInto(const AttentionCall& call, int64_t heads, const Partial& next,
                           const Partial& total) const {
  for (int64_t h = 0; h < heads; ++h) {
    kernels_.rows.merge_split(next.max[h], next.sum[h], next.out + h * call.head_dim, call.head_dim,
                              total.max + h, total.sum + h, total.out + h * call.head_dim);
  }
}

void CpuBackend::WriteRow(const AttentionCall& call, int64_t row, HeadRuns runs,
                          const Partial& total) const {
  const int64_t first = runs.front().first;
  for (int64_t h = 0; h < HeadsOf(runs); ++h) {
    BFloat16* out = call.out.row<BFloat16>(row) + (first + h) * call.head_dim;
    kernels_.rows.divide(total.out + h * call.head_dim, total.sum[h], call.head_dim, &out->bits);
  }
}

// Split after split: the rows that reach beyond it together, then one by one those that end in it.
// Rows ascend, so that the first ones end first.
void CpuBackend::AttendTile(const AttentionCall& call, const RowTile& rows, HeadRuns runs,
                            int worker) {
  const int64_t heads = HeadsOf(runs);
  float* scratch = WorkerFloats(worker);
  const Partial total = Partial::At(scratch, rows.count * heads);
  scratch += Partial::Floats(rows.count * heads, call.head_dim);
  const Partial next = Partial::At(scratch, rows.count * heads);
  float* rest = scratch + Partial::Floats(rows.count * heads, call.head_dim);
  const auto attend = [&](int64_t first, int64_t count, int64_t split) {
    const RowTile some{.first = rows.first + first, .count = count};
    const Partial to = total.From(first * heads, call.head_dim);
    if (split == 0) {
      AttendSplitOf(call, some, runs, split, rest, to);
    } else {
      AttendSplitOf(call, some, runs, split, rest, next);
      MergeInto(call, count * heads, next, to);
    }
  };
  const int32_t* positions = call.rows.positions.data<int32_t>() + rows.first;
  int64_t first = 0;
  for (int64_t split = 0; first < rows.count; ++split) {
    const int64_t last_position = (split + 1) * kSplit - 1;
    for (; first < rows.count && positions[first] < last_position; ++first) attend(first, 1, split);
    if (first < rows.count) attend(first, rows.count - first, split);
    while (first < rows.count && positions[first] == last_position) ++first;
  }
  for (int64_t row = 0; row < rows.count; ++row) {
    WriteRow(call, rows.first + row, runs, total.From(row * heads, call.head_dim));
  }
}

void CpuBackend::AttendBySplits(const AttentionCall& call, int64_t max_splits) {
  const int64_t runs_per_item = RunsPerItem(call.q.rows() * max_splits);
  const int64_t groups = CeilDiv(static_cast<int64_t>(head_runs_.size()), runs_per_item);
  const int64_t pairs = call.q.rows() * groups;  // of a row and some runs of heads
  const int64_t heads = call.q.cols() / call.head_dim;
  const int64_t stride = Partial::Floats(heads, call.head_dim);
  const size_t bytes = static_cast<size_t>(pairs * max_splits * stride) * sizeof(float);
  if (partials_.bytes() < bytes) partials_ = Buffer::Host(bytes);
  const auto runs_of = [&](int64_t pair) { return RunsOf(pair % groups, runs_per_item); };
  const auto partial_of = [&](int64_t pair, int64_t split) {
    float* p = static_cast<float*>(partials_.data()) + (pair * max_splits + split) * stride;
    return Partial::At(p, HeadsOf(runs_of(pair)));
  };
  const auto attend = [&](int64_t begin, int64_t end, int worker) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t pair = i / max_splits;
      const int64_t split = i % max_splits;
      if (split >= call.NumSplits(pair / groups)) continue;
      AttendSplitOf(call, {.first = pair / groups, .count = 1}, runs_of(pair), split,
                    WorkerFloats(worker), partial_of(pair, split));
    }
  };
  pool_.ParallelFor(pairs * max_splits, 1, std::ref(attend));
  for (int64_t pair = 0; pair < pairs; ++pair) {
    const Partial total = partial_of(pair, 0);
    for (int64_t split = 1; split < call.NumSplits(pair / groups); ++split) {
      MergeInto(call, HeadsOf(runs_of(pair)), partial_of(pair, split), total);
    }
    WriteRow(call, pair / groups, runs_of(pair), total);
  }
}

void CpuBackend::PagedAttention(const Tensor& q, const PagedRows& rows, const KvLayer& cache,
                                std::span<const int32_t> kv_head_of, float scale, Tensor out) {
  const int64_t head_dim = cache.k.shape(3);
  const int64_t num_heads = static_cast<int64_t>(kv_head_of.size());
  CHECK_EQ(q.cols(), num_heads * head_dim);
  CHECK_EQ(out.cols(), num_heads * head_dim);
  CHECK_EQ(out.rows(), q.rows());
  for (int d = 0; d < 4; ++d) CHECK_EQ(cache.k.stride(d), cache.v.stride(d));
  const DType dtype = cache.quantized() ? DType::kI8 : DType::kBF16;
  CHECK(cache.k.dtype() == dtype && cache.v.dtype() == dtype)
      << cache.k.ToString() << " and " << cache.v.ToString();
  if (q.rows() == 0) return;
  FindHeadRuns(kv_head_of);
  const AttentionCall call{
      .q = q, .rows = rows, .cache = cache, .scale = scale, .out = out, .head_dim = head_dim};
  FindRowTiles(call);
  const int64_t queries = std::max(kTileQueries, num_heads);
  CHECK_LE(queries, kMaxQueries) << "heads of one rank";
  ReserveWorkerFloats(2 * Partial::Floats(queries, head_dim) + SplitFloats(queries));
  int64_t max_splits = 1;
  int64_t work = 0;
  for (int64_t m = 0; m < q.rows(); ++m) {
    max_splits = std::max(max_splits, call.NumSplits(m));
    work += 2 * (rows.positions.data<int32_t>()[m] + 1) * num_heads * head_dim;
  }
  const auto tiles = static_cast<int64_t>(row_tiles_.size());
  const bool single_rows = tiles == q.rows();
  if (max_splits > 1 && single_rows && tiles < 4 * pool_.num_threads() && pool_.num_threads() > 1) {
    AttendBySplits(call, max_splits);
    return;
  }
  const int64_t runs_per_item = single_rows ? RunsPerItem(tiles) : 1;
  const int64_t groups = CeilDiv(static_cast<int64_t>(head_runs_.size()), runs_per_item);
  const auto attend = [&](int64_t begin, int64_t end, int worker) {
    for (int64_t i = begin; i < end; ++i) {
      AttendTile(call, row_tiles_[static_cast<size_t>(i / groups)],
                 RunsOf(i % groups, runs_per_item), worker);
    }
  };
  const int64_t items = tiles * groups;
  pool_.ParallelFor(items, work < kSerialWork ? items : 1, std::ref(attend));
}

}  // namespace intermix::cpu
