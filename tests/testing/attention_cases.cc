#include "tests/testing/attention_cases.h"

#include <algorithm>
#include <numeric>

#include "tests/testing/random.h"

namespace intermix {

int64_t AttentionCase::num_kv_heads() const {
  return *std::max_element(kv_head_of.begin(), kv_head_of.end()) + 1;
}

int64_t AttentionCase::num_rows() const {
  return std::accumulate(rows.begin(), rows.end(), int64_t{0});
}

AttentionCache ZeroCache(const AttentionCase& c, int64_t num_blocks, DType dtype) {
  AttentionCache cache;
  for (OwnedTensor* t : {&cache.k, &cache.v}) {
    *t = OwnedTensor::Host(dtype, {num_blocks, c.num_kv_heads(), c.block_size, c.head_dim});
  }
  if (dtype == DType::kBF16) return cache;
  for (OwnedTensor* t : {&cache.k_scales, &cache.v_scales}) {
    *t = OwnedTensor::Host(DType::kF32, {num_blocks, c.num_kv_heads(), c.block_size});
  }
  return cache;
}

AttentionCache RandomCache(const AttentionCase& c, int64_t num_blocks, DType dtype, uint64_t seed) {
  AttentionCache cache = ZeroCache(c, num_blocks, dtype);
  Random random(seed);
  for (const Tensor& t : {cache.k.view, cache.v.view}) {
    for (int64_t i = 0; i < t.num_elements(); ++i) {
      if (dtype == DType::kBF16) {
        t.data<BFloat16>()[i] = BFloat16(static_cast<float>(random.Gaussian()));
      } else {
        t.data<int8_t>()[i] = static_cast<int8_t>(random.Int(-127, 127));
      }
    }
  }
  for (const Tensor& t : {cache.k_scales.view, cache.v_scales.view}) {
    for (int64_t i = 0; i < t.num_elements(); ++i) {
      t.data<float>()[i] = static_cast<float>(0.05 * random.Uniform());
    }
  }
  return cache;
}

AttentionInputs MakeAttentionInputs(const AttentionCase& c, uint64_t seed) {
  const auto sequences = static_cast<int64_t>(c.rows.size());
  AttentionInputs in;
  for (size_t s = 0; s < c.rows.size(); ++s) {
    in.max_length = std::max<int64_t>(in.max_length, c.past[s] + c.rows[s]);
  }
  const int64_t max_blocks = (in.max_length + c.block_size - 1) / c.block_size;
  in.num_blocks = max_blocks * sequences + 1;
  std::vector<int32_t> order(static_cast<size_t>(in.num_blocks));
  std::iota(order.begin(), order.end(), 0);
  Random random(seed);
  for (size_t i = order.size() - 1; i > 0; --i) {
    std::swap(order[i], order[static_cast<size_t>(random.Int(0, static_cast<int64_t>(i)))]);
  }
  in.positions = OwnedTensor::Host(DType::kI32, {c.num_rows()});
  in.slots = OwnedTensor::Host(DType::kI32, {c.num_rows()});
  in.query_starts = OwnedTensor::Host(DType::kI32, {sequences + 1});
  in.block_tables = OwnedTensor::Host(DType::kI32, {sequences, max_blocks});
  std::copy(order.begin(), order.begin() + sequences * max_blocks,
            in.block_tables.view.data<int32_t>());
  int32_t row = 0;
  for (int64_t s = 0; s < sequences; ++s) {
    in.query_starts.view.data<int32_t>()[s] = row;
    for (int32_t i = 0; i < c.rows[static_cast<size_t>(s)]; ++i, ++row) {
      const int64_t position = c.past[static_cast<size_t>(s)] + i;
      const int64_t block = in.block_tables.view.row<int32_t>(s)[position / c.block_size];
      in.positions.view.data<int32_t>()[row] = static_cast<int32_t>(position);
      in.slots.view.data<int32_t>()[row] =
          static_cast<int32_t>(block * c.block_size + position % c.block_size);
    }
  }
  in.query_starts.view.data<int32_t>()[sequences] = row;
  return in;
}

}  // namespace intermix
