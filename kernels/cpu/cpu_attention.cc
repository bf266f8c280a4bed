// CpuBackend: rotary embedding and paged attention. A work item of a prompt is neighbouring rows
// and the heads that share a K/V head, so that K and V are read once for all of them. Few rows with
// a long past are split further, along positions, and merged in the same ascending order.
//
// One head's positions lie in small pieces all over the cache, where hardware prefetchers do not
// follow; so kernels get the address of every row that is read, in order and beyond the split's
// end, and ask for rows well before they read them.
#include <algorithm>

#include "kernels/core/int_math.h"
#include "kernels/cpu/cpu_backend_class.h"

namespace intermix::cpu {
namespace {

constexpr int64_t kSplit = kAttentionSplit;
// Queries of one work item: their scores of a split, and K and V of it, fit the second cache.
constexpr int64_t kTileQueries = 64;
constexpr int64_t kMaxQueries = 1024;  // more heads than any model has
// Positions of K (or V) that all queries of one K/V head use before the next: they fit the first
// cache.
constexpr int kChunk = 64;
// With fewer items for each thread some would wait for others at the end.
constexpr int64_t kFairItems = 16;
// Below this many multiplications waking other threads costs more than it brings.
constexpr int64_t kSerialWork = int64_t{1} << 17;

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

int64_t CpuBackend::MostHeads() const {
  int64_t most = 1;
  for (const HeadRun& run : head_runs_) most = std::max<int64_t>(most, run.count);
  return most;
}

void CpuBackend::FindRowTiles(const AttentionCall& call) {
  const int64_t rows_per_tile = std::max<int64_t>(1, kTileQueries / MostHeads());
  row_tiles_.clear();
  const Tensor& starts = call.rows.query_starts;
  for (int64_t s = 0; s + 1 < starts.rows(); ++s) {
    const int64_t end = starts.data<int32_t>()[s + 1];
    for (int64_t row = starts.data<int32_t>()[s]; row < end; row += rows_per_tile) {
      row_tiles_.push_back({.first = row, .count = std::min(rows_per_tile, end - row)});
    }
  }
}

// The rows of `cache` and one K/V head at positions [begin, end) of a sequence; returns where the
// next would be written.
const void** CpuBackend::FindRows(const Tensor& cache, const int32_t* table, int64_t begin,
                                  int64_t end, int64_t kv_head, const void** out) {
  const int64_t block_size = cache.shape(2);
  const auto element_bytes = static_cast<int64_t>(ByteSize(cache.dtype()));
  const char* head =
      static_cast<const char*>(cache.raw()) + kv_head * cache.stride(1) * element_bytes;
  for (int64_t t = begin; t < end;) {
    const int64_t stop = std::min(end, (t / block_size + 1) * block_size);
    const char* row =
        head + (table[t / block_size] * cache.stride(0) + t % block_size * cache.stride(2)) *
                   element_bytes;
    for (; t < stop; ++t, row += cache.stride(2) * element_bytes) *out++ = row;
  }
  return out;
}

// Likewise the scales.
void CpuBackend::GatherScales(const Tensor& scales, const int32_t* table, int64_t begin,
                              int64_t end, int64_t kv_head, float* out) {
  const int64_t block_size = scales.shape(2);
  for (int64_t t = begin; t < end;) {
    const int64_t stop = std::min(end, (t / block_size + 1) * block_size);
    const float* row = scales.data<float>() + table[t / block_size] * scales.stride(0) +
                       kv_head * scales.stride(1) + t % block_size;
    out = std::copy(row, row + (stop - t), out);
    t = stop;
  }
}

// All of `rows` have the same number of positions in the split. `next_end`: the next split, which
// this thread computes after this one, ends there; or where this one ends, if there is none.
//   scores  [rows * heads of the run, kSplit]
//   result  [rows, heads of the run]
void CpuBackend::AttendSplitOf(const AttentionCall& call, const RowTile& rows, const HeadRun& run,
                               int64_t split, int64_t next_end, float* scores,
                               const Partial& result) const {
  const KvLayer& cache = call.cache;
  const int32_t* table = call.BlockTable(rows.first);
  const int64_t begin = split * kSplit;
  const int64_t end =
      std::min<int64_t>(begin + kSplit, call.rows.positions.data<int32_t>()[rows.first] + 1);
  const void* addresses[2 * kSplit + kRowsAhead];
  const void** at = FindRows(cache.k, table, begin, end, run.kv_head, addresses);
  at = FindRows(cache.v, table, begin, end, run.kv_head, at);
  const int64_t ahead = std::min<int64_t>(next_end, end + kRowsAhead);
  at = FindRows(cache.k, table, end, ahead, run.kv_head, at);
  std::fill(at, addresses + 2 * (end - begin) + kRowsAhead, at[-1]);
  float k_scales[kSplit];
  float v_scales[kSplit];
  if (cache.quantized()) {
    GatherScales(cache.k_scales, table, begin, end, run.kv_head, k_scales);
    GatherScales(cache.v_scales, table, begin, end, run.kv_head, v_scales);
  }
  const float* queries[kMaxQueries];
  int num_queries = 0;
  for (int64_t row = rows.first; row < rows.first + rows.count; ++row) {
    for (int32_t h = run.first; h < run.first + run.count; ++h) {
      queries[num_queries++] = call.q.row<float>(row) + h * call.head_dim;
    }
  }
  const AttendSplit part = {.q = queries,
                            .num_queries = num_queries,
                            .head_dim = call.head_dim,
                            .scale = call.scale,
                            .count = static_cast<int>(end - begin),
                            .rows = addresses,
                            .k_scales = cache.quantized() ? k_scales : nullptr,
                            .v_scales = cache.quantized() ? v_scales : nullptr,
                            .scores = scores,
                            .max = result.max,
                            .sum = result.sum,
                            .out = result.out};
  for (int t = 0; t < part.count; t += kChunk) {
    kernels_.rows.attend_scores(part, t, std::min(t + kChunk, part.count));
  }
  kernels_.rows.attend_softmax(part);
  for (int t = 0; t < part.count; t += kChunk) {
    kernels_.rows.attend_values(part, t, std::min(t + kChunk, part.count));
  }
}

void CpuBackend::MergeInto(const AttentionCall& call, int64_t heads, const Partial& next,
                           const Partial& total) const {
  for (int64_t h = 0; h < heads; ++h) {
    kernels_.rows.merge_split(next.max[h], next.sum[h], next.out + h * call.head_dim, call.head_dim,
                              total.max + h, total.sum + h, total.out + h * call.head_dim);
  }
}

void CpuBackend::WriteRow(const AttentionCall& call, int64_t row, const HeadRun& run,
                          const Partial& total) const {
  for (int64_t h = 0; h < run.count; ++h) {
    BFloat16* out = call.out.row<BFloat16>(row) + (run.first + h) * call.head_dim;
    kernels_.rows.divide(total.out + h * call.head_dim, total.sum[h], call.head_dim, &out->bits);
  }
}

// Split after split: the rows that reach beyond it together, then one by one those that end in it.
// Rows ascend, so that the first ones end first.
void CpuBackend::AttendTile(const AttentionCall& call, const RowTile& rows, const HeadRun& run,
                            int worker) {
  const int64_t heads = run.count;
  float* scratch = WorkerFloats(worker);
  const Partial total = Partial::At(scratch, rows.count * heads);
  scratch += Partial::Floats(rows.count * heads, call.head_dim);
  const Partial next = Partial::At(scratch, rows.count * heads);
  float* scores = scratch + Partial::Floats(rows.count * heads, call.head_dim);
  const int32_t* positions = call.rows.positions.data<int32_t>() + rows.first;
  const int64_t length = positions[rows.count - 1] + 1;
  const auto attend = [&](int64_t first, int64_t count, int64_t split) {
    const RowTile some{.first = rows.first + first, .count = count};
    const Partial to = total.From(first * heads, call.head_dim);
    if (split == 0) {
      AttendSplitOf(call, some, run, split, length, scores, to);
    } else {
      AttendSplitOf(call, some, run, split, length, scores, next);
      MergeInto(call, count * heads, next, to);
    }
  };
  int64_t first = 0;
  for (int64_t split = 0; first < rows.count; ++split) {
    const int64_t last_position = (split + 1) * kSplit - 1;
    for (; first < rows.count && positions[first] < last_position; ++first) attend(first, 1, split);
    if (first < rows.count) attend(first, rows.count - first, split);
    while (first < rows.count && positions[first] == last_position) ++first;
  }
  for (int64_t row = 0; row < rows.count; ++row) {
    WriteRow(call, rows.first + row, run, total.From(row * heads, call.head_dim));
  }
}

// A thread takes several splits of a row and a run of heads at a time.
void CpuBackend::AttendBySplits(const AttentionCall& call, int64_t max_splits) {
  constexpr int64_t kItemsPerThread = 16;
  const auto runs = static_cast<int64_t>(head_runs_.size());
  const int64_t pairs = call.q.rows() * runs;  // of a row and a run of heads
  const int64_t stride = Partial::Floats(MostHeads(), call.head_dim);
  const size_t bytes = static_cast<size_t>(pairs * max_splits * stride) * sizeof(float);
  if (partials_.bytes() < bytes) partials_ = Buffer::Host(bytes);
  const auto run_of = [&](int64_t pair) -> const HeadRun& {
    return head_runs_[static_cast<size_t>(pair % runs)];
  };
  const auto partial_of = [&](int64_t pair, int64_t split) {
    float* p = static_cast<float*>(partials_.data()) + (pair * max_splits + split) * stride;
    return Partial::At(p, run_of(pair).count);
  };
  const auto attend = [&](int64_t begin, int64_t end, int worker) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t pair = i / max_splits;
      const int64_t split = i % max_splits;
      const int64_t row = pair / runs;
      if (split >= call.NumSplits(row)) continue;
      const int64_t length = call.rows.positions.data<int32_t>()[row] + 1;
      const int64_t splits_after = i + 1 < end ? 2 : 1;
      AttendSplitOf(call, {.first = row, .count = 1}, run_of(pair), split,
                    std::min(length, (split + splits_after) * kSplit), WorkerFloats(worker),
                    partial_of(pair, split));
    }
  };
  const int64_t items = pairs * max_splits;
  pool_.ParallelFor(items, std::max<int64_t>(1, items / (kItemsPerThread * pool_.num_threads())),
                    std::ref(attend));
  const auto merge = [&](int64_t begin, int64_t end, int) {
    for (int64_t pair = begin; pair < end; ++pair) {
      const Partial total = partial_of(pair, 0);
      for (int64_t split = 1; split < call.NumSplits(pair / runs); ++split) {
        MergeInto(call, run_of(pair).count, partial_of(pair, split), total);
      }
      WriteRow(call, pair / runs, run_of(pair), total);
    }
  };
  pool_.ParallelFor(pairs, 1, std::ref(merge));
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
  ReserveWorkerFloats(2 * Partial::Floats(queries, head_dim) + queries * kSplit);
  int64_t max_splits = 1;
  int64_t work = 0;
  for (int64_t m = 0; m < q.rows(); ++m) {
    max_splits = std::max(max_splits, call.NumSplits(m));
    work += 2 * (rows.positions.data<int32_t>()[m] + 1) * num_heads * head_dim;
  }
  const auto tiles = static_cast<int64_t>(row_tiles_.size());
  const auto runs = static_cast<int64_t>(head_runs_.size());
  const int64_t items = tiles * runs;
  const bool single_rows = tiles == q.rows();
  const bool few = items < kFairItems * pool_.num_threads();
  if (max_splits > 1 && single_rows && few && pool_.num_threads() > 1) {
    AttendBySplits(call, max_splits);
    return;
  }
  const auto attend = [&](int64_t begin, int64_t end, int worker) {
    for (int64_t i = begin; i < end; ++i) {
      AttendTile(call, row_tiles_[static_cast<size_t>(i / runs)],
                 head_runs_[static_cast<size_t>(i % runs)], worker);
    }
  };
  pool_.ParallelFor(items, work < kSerialWork ? items : 1, std::ref(attend));
}

}  // namespace intermix::cpu
