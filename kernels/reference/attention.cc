// Rotary embedding and attention over the paged cache.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/core/lane_math.h"
#include "kernels/reference/reference_backend.h"

namespace intermix {
namespace {

// One head's row, rotated in place.  x [head_dim], rope [head_dim]: cos, then sin
void RotateHead(float* x, const float* rope, int64_t head_dim) {
  const int64_t half = head_dim / 2;
  for (int64_t i = 0; i < half; ++i) {
    const float c = rope[i];
    const float s = rope[half + i];
    const float low = x[i];
    const float high = x[i + half];
    x[i] = std::fma(low, c, -(high * s));
    x[i + half] = std::fma(high, c, low * s);
  }
}

// The cache row of one position and head: [head_dim]; or, in a tensor of scales, its scale.
template <typename T>
T* CacheRow(const Tensor& cache, int64_t slot, int64_t head) {
  const int64_t block_size = cache.shape(2);
  const int64_t block = slot / block_size;
  CHECK(block >= 0 && block < cache.shape(0)) << "block " << block << " of " << cache.shape(0);
  return cache.data<T>() + block * cache.stride(0) + head * cache.stride(1) +
         slot % block_size * cache.stride(2);
}

// One head's row to `cache`: rounded, or quantised where there are scales.  x [head_dim]
void Store(float* x, int64_t head_dim, int64_t slot, int64_t head, const Tensor& cache,
           const Tensor& scales) {
  if (scales.empty()) {
    BFloat16* row = CacheRow<BFloat16>(cache, slot, head);
    for (int64_t d = 0; d < head_dim; ++d) row[d] = BFloat16(x[d]);
    return;
  }
  const Tensor values(x, DType::kF32, {1, head_dim});
  float amax = 0.0f;
  ReferenceBackend backend;
  backend.RowAbsMax(values, Tensor(&amax, DType::kF32, {1}));
  const Activations row = {
      .values = Tensor(CacheRow<int8_t>(cache, slot, head), DType::kI8, {1, head_dim}),
      .scales = Tensor(CacheRow<float>(scales, slot, head), DType::kF32, {1})};
  backend.QuantizeRows(values, Tensor(&amax, DType::kF32, {1}), row);
}

// Where position t of a sequence lies in the cache.
int64_t SlotOf(const int32_t* block_table, int64_t t, int64_t block_size) {
  return block_table[t / block_size] * block_size + t % block_size;
}

// A softmax over some positions, not yet divided by its sum.
struct Partial {
  float max = -std::numeric_limits<float>::infinity();
  float sum = 0.0f;
  std::vector<float> out;  // [head_dim]
};

// What one row and head reads.
struct HeadView {
  const float* q;              // [head_dim]
  const int32_t* block_table;  // of the row's sequence
  int64_t kv_head;
  int64_t head_dim;
  float scale;
};

// LaneDot of the query and one position's key, times the key's scale where it has one.
float KeyDot(const HeadView& head, const KvLayer& cache, int64_t slot) {
  if (!cache.quantized()) {
    return LaneDot(head.q, CacheRow<BFloat16>(cache.k, slot, head.kv_head), head.head_dim);
  }
  return LaneDot(head.q, CacheRow<int8_t>(cache.k, slot, head.kv_head), head.head_dim) *
         *CacheRow<float>(cache.k_scales, slot, head.kv_head);
}

// out[d] = fma(weight, value[d], out[d]) with one position's value.
template <typename T>
void AddValue(float weight, const T* value, std::vector<float>& out) {
  for (size_t d = 0; d < out.size(); ++d) {
    out[d] = std::fma(weight, static_cast<float>(value[d]), out[d]);
  }
}

// Attention over positions [begin, end) of one split.
Partial AttendSplit(const HeadView& head, const KvLayer& cache, int64_t begin, int64_t end) {
  const int64_t block_size = cache.k.shape(2);
  Partial part;
  std::vector<float> p;
  for (int64_t t = begin; t < end; ++t) {
    const int64_t slot = SlotOf(head.block_table, t, block_size);
    const float score = KeyDot(head, cache, slot) * head.scale;
    p.push_back(score);
    part.max = score > part.max ? score : part.max;
  }
  part.out.assign(head.head_dim, 0.0f);
  LaneSums lanes{};
  for (int64_t t = begin; t < end; ++t) {
    const float weight = LaneExp(p[t - begin] - part.max);
    lanes[t % kLanes] = lanes[t % kLanes] + weight;
    const int64_t slot = SlotOf(head.block_table, t, block_size);
    if (cache.quantized()) {
      AddValue(weight * *CacheRow<float>(cache.v_scales, slot, head.kv_head),
               CacheRow<int8_t>(cache.v, slot, head.kv_head), part.out);
    } else {
      AddValue(weight, CacheRow<BFloat16>(cache.v, slot, head.kv_head), part.out);
    }
  }
  part.sum = SumLanes(lanes);
  return part;
}

void Merge(const Partial& next, Partial& total) {
  const float max = next.max > total.max ? next.max : total.max;
  const float a = LaneExp(total.max - max);
  const float b = LaneExp(next.max - max);
  total.max = max;
  total.sum = std::fma(total.sum, a, next.sum * b);
  for (size_t d = 0; d < total.out.size(); ++d) {
    total.out[d] = std::fma(total.out[d], a, next.out[d] * b);
  }
}

// One row and head over positions 0 .. position.
Partial AttendHead(const HeadView& head, const KvLayer& cache, int64_t position) {
  const int64_t length = position + 1;
  Partial total = AttendSplit(head, cache, 0, std::min<int64_t>(length, kAttentionSplit));
  for (int64_t begin = kAttentionSplit; begin < length; begin += kAttentionSplit) {
    Merge(AttendSplit(head, cache, begin, std::min<int64_t>(length, begin + kAttentionSplit)),
          total);
  }
  return total;
}

}  // namespace

void ReferenceBackend::RopeAndStoreKv(Tensor q, Tensor k, const Tensor& v, const Tensor& rope,
                                      const PagedRows& rows, const KvLayer& cache) {
  const int64_t head_dim = cache.k.shape(3);
  const int64_t num_kv_heads = cache.k.shape(1);
  CHECK_EQ(q.cols() % head_dim, 0);
  CHECK_EQ(k.cols(), num_kv_heads * head_dim);
  CHECK_EQ(v.cols(), num_kv_heads * head_dim);
  CHECK_EQ(rope.cols(), head_dim);
  for (int64_t m = 0; m < q.rows(); ++m) {
    const int32_t position = rows.positions.data<int32_t>()[m];
    CHECK(position >= 0 && position < rope.rows()) << position << " of " << rope.rows();
    const float* angles = rope.row<float>(position);
    for (int64_t h = 0; h < q.cols() / head_dim; ++h) {
      RotateHead(q.row<float>(m) + h * head_dim, angles, head_dim);
    }
    const int32_t slot = rows.slots.data<int32_t>()[m];
    for (int64_t h = 0; h < num_kv_heads; ++h) {
      float* key = k.row<float>(m) + h * head_dim;
      RotateHead(key, angles, head_dim);
      Store(key, head_dim, slot, h, cache.k, cache.k_scales);
      Store(v.row<float>(m) + h * head_dim, head_dim, slot, h, cache.v, cache.v_scales);
    }
  }
}

void ReferenceBackend::PagedAttention(const Tensor& q, const PagedRows& rows, const KvLayer& cache,
                                      std::span<const int32_t> kv_head_of, float scale,
                                      Tensor out) {
  const int64_t head_dim = cache.k.shape(3);
  const int64_t num_heads = static_cast<int64_t>(kv_head_of.size());
  CHECK_EQ(q.cols(), num_heads * head_dim);
  CHECK_EQ(out.cols(), num_heads * head_dim);
  CHECK_EQ(out.rows(), q.rows());
  const int32_t* starts = rows.query_starts.data<int32_t>();
  for (int64_t s = 0; s + 1 < rows.query_starts.rows(); ++s) {
    for (int64_t m = starts[s]; m < starts[s + 1]; ++m) {
      for (int64_t h = 0; h < num_heads; ++h) {
        const HeadView head{.q = q.row<float>(m) + h * head_dim,
                            .block_table = rows.block_tables.row<int32_t>(s),
                            .kv_head = kv_head_of[h],
                            .head_dim = head_dim,
                            .scale = scale};
        const Partial total = AttendHead(head, cache, rows.positions.data<int32_t>()[m]);
        BFloat16* result = out.row<BFloat16>(m) + h * head_dim;
        for (int64_t d = 0; d < head_dim; ++d) result[d] = BFloat16(total.out[d] / total.sum);
      }
    }
  }
}

}  // namespace intermix
