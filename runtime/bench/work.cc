#include "runtime/bench/work.h"

#include <algorithm>

#include "kernels/core/check.h"

namespace intermix {

double Work::Of(Resource resource) const {
  switch (resource) {
    case Resource::kInt8:
      return int8_ops;
    case Resource::kFloat:
      return float_ops;
    case Resource::kBytes:
      return bytes;
  }
  return 0.0;
}

Work& Work::operator+=(const Work& other) {
  int8_ops += other.int8_ops;
  float_ops += other.float_ops;
  bytes += other.bytes;
  return *this;
}

Work LinearWork(const PackedWeight& weight, int64_t tokens) {
  Work work;
  if (tokens == 0) return work;
  (weight.quantized() ? work.int8_ops : work.float_ops) =
      2.0 * static_cast<double>(tokens * weight.n()) * static_cast<double>(weight.k());
  work.bytes = static_cast<double>(weight.bytes());
  return work;
}

Work GroupedLinearWork(std::span<const PackedWeight* const> weights,
                       std::span<const int32_t> row_offsets) {
  CHECK_EQ(row_offsets.size(), weights.size() + 1);
  Work work;
  for (size_t e = 0; e < weights.size(); ++e) {
    work += LinearWork(*weights[e], row_offsets[e + 1] - row_offsets[e]);
  }
  return work;
}

AttentionShape AttentionShapeOf(const KvLayer& cache, int64_t num_heads) {
  const int64_t num_kv_heads = cache.k.shape(1);
  const int64_t head_dim = cache.k.shape(3);
  const int64_t head_bytes = head_dim * static_cast<int64_t>(ByteSize(cache.k.dtype())) +
                             (cache.quantized() ? int64_t{sizeof(float)} : 0);
  return {.num_heads = num_heads,
          .num_kv_heads = num_kv_heads,
          .head_dim = head_dim,
          .position_bytes = 2 * num_kv_heads * head_bytes};
}

Work AttentionWork(const AttentionShape& shape, std::span<const int32_t> positions,
                   std::span<const int32_t> query_starts) {
  const auto q_width = static_cast<double>(shape.num_heads * shape.head_dim);
  Work work;
  for (size_t s = 0; s + 1 < query_starts.size(); ++s) {
    int32_t longest = -1;
    for (int32_t t = query_starts[s]; t < query_starts[s + 1]; ++t) {
      const int32_t position = positions[static_cast<size_t>(t)];
      work.float_ops += 4.0 * q_width * (position + 1);
      longest = std::max(longest, position);
    }
    work.bytes += static_cast<double>(shape.position_bytes) * (longest + 1);
  }
  return work;
}

}  // namespace intermix
