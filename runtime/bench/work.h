// Work: what an op has to do at least, whatever the kernel: the numerator of every fraction.
// Pure functions.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/limits.h"
#include "kernels/operands.h"

namespace intermix {

struct Work {
  double int8_ops = 0.0;   // two for each product of a quantised linear layer
  double float_ops = 0.0;  // two for each product of an unquantised one, and of attention
  double bytes = 0.0;

  double Of(Resource resource) const;
  Work& operator+=(const Work& other);
};

// A linear layer: its products, and its weights and scales once. Rows are not counted as bytes:
// where they are many, products are the limit.
Work LinearWork(const PackedWeight& weight, int64_t tokens);

// GroupedGemm: experts without rows cost nothing.
//   row_offsets  [experts + 1]
Work GroupedLinearWork(std::span<const PackedWeight* const> weights,
                       std::span<const int32_t> row_offsets);

struct AttentionShape {
  int64_t num_heads = 0;
  int64_t num_kv_heads = 0;
  int64_t head_dim = 0;
  int64_t position_bytes = 0;  // of K and V in the cache
};
// Of a cache's heads and dtype, and `num_heads` query heads.
AttentionShape AttentionShapeOf(const KvLayer& cache, int64_t num_heads);

// PagedAttention: q . k and p . v of every row with every position up to its own, and each
// sequence's cached K and V once.
//   positions     [tokens]
//   query_starts  [sequences + 1]
Work AttentionWork(const AttentionShape& shape, std::span<const int32_t> positions,
                   std::span<const int32_t> query_starts);

}  // namespace intermix
