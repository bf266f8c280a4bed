// CpuBackend: rotary embedding and paged attention. A row and the heads that share a K/V head are
// one work item, so K and V are read once for all of them; few rows with a long past are split
// further, along positions, and merged in the same ascending order.
#include <algorithm>

#include "kernels/cpu/cpu_backend_class.h"

namespace intermix::cpu {
namespace {

constexpr int64_t kSplit = kAttentionSplit;
// Below this many multiplications waking other threads costs more than it brings.
constexpr int64_t kSerialWork = int64_t{1} << 17;

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
};

void CpuBackend::RopeAndStoreKv(Tensor q, Tensor k, const Tensor& v, const Tensor& rope,
                                const PagedRows& rows, const KvLayer& cache) {
  const int64_t head_dim = cache.k.shape(3);
  const int64_t num_kv_heads = cache.k.shape(1);
  const int64_t block_size = cache.k.shape(2);
  CHECK_EQ(q.cols() % head_dim, 0);
  CHECK_EQ(k.cols(), num_kv_heads * head_dim);
  CHECK_EQ(v.cols(), num_kv_heads * head_dim);
  CHECK_EQ(rope.cols(), head_dim);
  const auto cache_row = [&](const Tensor& t, int64_t slot, int64_t head) {
    return &(t.data<BFloat16>() + slot / block_size * t.stride(0) + head * t.stride(1) +
             slot % block_size * t.stride(2))
                ->bits;
  };
  ForRows(q.rows(), q.cols() + 2 * k.cols(), [&](int64_t m, int) {
    const int32_t position = rows.positions.data<int32_t>()[m];
    CHECK(position >= 0 && position < rope.rows()) << position << " of " << rope.rows();
    const int32_t slot = rows.slots.data<int32_t>()[m];
    CHECK(slot >= 0 && slot / block_size < cache.k.shape(0)) << "slot " << slot;
    const float* angles = rope.row<float>(position);
    for (int64_t h = 0; h < q.cols() / head_dim; ++h) {
      kernels_.rows.rotate(q.row<float>(m) + h * head_dim, angles, head_dim / 2);
    }
    for (int64_t h = 0; h < num_kv_heads; ++h) {
      float* key = k.row<float>(m) + h * head_dim;
      kernels_.rows.rotate(key, angles, head_dim / 2);
      kernels_.rows.narrow(key, head_dim, cache_row(cache.k, slot, h));
      kernels_.rows.narrow(v.row<float>(m) + h * head_dim, head_dim, cache_row(cache.v, slot, h));
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

void CpuBackend::AttendSplitOf(const AttentionCall& call, int64_t row, const HeadRun& run,
                               int64_t split, float* scores, const Partial& result) const {
  const Tensor& k = call.cache.k;
  const int64_t block_size = k.shape(2);
  const int32_t* table = call.BlockTable(row);
  const int64_t begin = split * kSplit;
  const int64_t end =
      std::min<int64_t>(begin + kSplit, call.rows.positions.data<int32_t>()[row] + 1);
  int64_t offsets[kSplit];
  for (int64_t t = begin; t < end; ++t) {
    offsets[t - begin] = table[t / block_size] * k.stride(0) + t % block_size * k.stride(2);
  }
  const int64_t head_offset = run.kv_head * k.stride(1);
  kernels_.rows.attend_split({.q = call.q.row<float>(row) + run.first * call.head_dim,
                              .q_stride = call.head_dim,
                              .num_queries = run.count,
                              .head_dim = call.head_dim,
                              .scale = call.scale,
                              .k = &(k.data<BFloat16>() + head_offset)->bits,
                              .v = &(call.cache.v.data<BFloat16>() + head_offset)->bits,
                              .offsets = offsets,
                              .count = static_cast<int>(end - begin),
                              .scores = scores,
                              .max = result.max,
                              .sum = result.sum,
                              .out = result.out});
}

void CpuBackend::MergeInto(const AttentionCall& call, const HeadRun& run, const Partial& next,
                           const Partial& total) const {
  for (int32_t h = 0; h < run.count; ++h) {
    kernels_.rows.merge_split(next.max[h], next.sum[h], next.out + h * call.head_dim, call.head_dim,
                              total.max + h, total.sum + h, total.out + h * call.head_dim);
  }
}

void CpuBackend::WriteRow(const AttentionCall& call, int64_t row, const HeadRun& run,
                          const Partial& total) const {
  for (int32_t h = 0; h < run.count; ++h) {
    BFloat16* out = call.out.row<BFloat16>(row) + (run.first + h) * call.head_dim;
    kernels_.rows.divide(total.out + h * call.head_dim, total.sum[h], call.head_dim, &out->bits);
  }
}

void CpuBackend::AttendRow(const AttentionCall& call, int64_t row, const HeadRun& run, int worker) {
  float* scratch = WorkerFloats(worker);
  const Partial total = Partial::At(scratch, run.count);
  scratch += Partial::Floats(run.count, call.head_dim);
  const Partial next = Partial::At(scratch, run.count);
  float* scores = scratch + Partial::Floats(run.count, call.head_dim);
  AttendSplitOf(call, row, run, 0, scores, total);
  for (int64_t split = 1; split < call.NumSplits(row); ++split) {
    AttendSplitOf(call, row, run, split, scores, next);
    MergeInto(call, run, next, total);
  }
  WriteRow(call, row, run, total);
}

void CpuBackend::AttendBySplits(const AttentionCall& call, int64_t max_splits) {
  const int64_t num_runs = static_cast<int64_t>(head_runs_.size());
  const int64_t pairs = call.q.rows() * num_runs;  // of a row and a run of heads
  const int64_t heads = call.q.cols() / call.head_dim;
  const int64_t stride = Partial::Floats(heads, call.head_dim);
  const size_t bytes = static_cast<size_t>(pairs * max_splits * stride) * sizeof(float);
  if (partials_.bytes() < bytes) partials_ = Buffer::Host(bytes);
  const auto partial_of = [&](int64_t pair, int64_t split) {
    float* p = static_cast<float*>(partials_.data()) + (pair * max_splits + split) * stride;
    return Partial::At(p, head_runs_[static_cast<size_t>(pair % num_runs)].count);
  };
  const auto attend = [&](int64_t begin, int64_t end, int worker) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t pair = i / max_splits;
      const int64_t split = i % max_splits;
      if (split >= call.NumSplits(pair / num_runs)) continue;
      AttendSplitOf(call, pair / num_runs, head_runs_[static_cast<size_t>(pair % num_runs)], split,
                    WorkerFloats(worker), partial_of(pair, split));
    }
  };
  pool_.ParallelFor(pairs * max_splits, 1, std::ref(attend));
  for (int64_t pair = 0; pair < pairs; ++pair) {
    const HeadRun& run = head_runs_[static_cast<size_t>(pair % num_runs)];
    const Partial total = partial_of(pair, 0);
    for (int64_t split = 1; split < call.NumSplits(pair / num_runs); ++split) {
      MergeInto(call, run, partial_of(pair, split), total);
    }
    WriteRow(call, pair / num_runs, run, total);
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
  if (q.rows() == 0) return;
  FindHeadRuns(kv_head_of);
  const int64_t num_runs = static_cast<int64_t>(head_runs_.size());
  const AttentionCall call{
      .q = q, .rows = rows, .cache = cache, .scale = scale, .out = out, .head_dim = head_dim};
  ReserveWorkerFloats(2 * Partial::Floats(num_heads, head_dim) + num_heads * kSplit);
  int64_t max_splits = 1;
  int64_t work = 0;
  for (int64_t m = 0; m < q.rows(); ++m) {
    max_splits = std::max(max_splits, call.NumSplits(m));
    work += 2 * (rows.positions.data<int32_t>()[m] + 1) * num_heads * head_dim;
  }
  const int64_t pairs = q.rows() * num_runs;
  if (max_splits > 1 && pairs < 4 * pool_.num_threads() && pool_.num_threads() > 1) {
    AttendBySplits(call, max_splits);
    return;
  }
  const auto attend = [&](int64_t begin, int64_t end, int worker) {
    for (int64_t i = begin; i < end; ++i) {
      AttendRow(call, i / num_runs, head_runs_[static_cast<size_t>(i % num_runs)], worker);
    }
  };
  pool_.ParallelFor(pairs, work < kSerialWork ? pairs : 1, std::ref(attend));
}

}  // namespace intermix::cpu
