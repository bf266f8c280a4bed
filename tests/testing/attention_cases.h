// Sequences of past and new rows over a paged cache whose blocks are in random order: what tests of
// RopeAndStoreKv and PagedAttention run on. Values; thread-safe.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/core/buffer.h"
#include "kernels/operands.h"

namespace intermix {

struct AttentionCase {
  int64_t head_dim;
  int64_t block_size;
  std::vector<int32_t> kv_head_of;
  std::vector<int32_t> past;
  std::vector<int32_t> rows;  // new ones, of each sequence

  int64_t num_kv_heads() const;
  int64_t num_heads() const { return static_cast<int64_t>(kv_head_of.size()); }
  int64_t num_rows() const;
};

// What a cache may hold.
inline constexpr DType kCacheDTypes[] = {DType::kBF16, DType::kI8};

// Where the rows of a case sit.
struct AttentionInputs {
  OwnedTensor positions, slots, query_starts, block_tables;
  int64_t num_blocks = 0;
  int64_t max_length = 0;

  PagedRows rows() const {
    return {.positions = positions.view,
            .slots = slots.view,
            .query_starts = query_starts.view,
            .block_tables = block_tables.view};
  }
};

// One layer's cache of the shape that a case needs, all zeros.
struct AttentionCache {
  OwnedTensor k, v, k_scales, v_scales;  // the scales are empty where dtype is bfloat16

  KvLayer layer() const {
    return {.k = k.view, .v = v.view, .k_scales = k_scales.view, .v_scales = v_scales.view};
  }
};
AttentionCache ZeroCache(const AttentionCase& c, int64_t num_blocks, DType dtype);
// Every position random: bfloat16, or int8 codes with scales in [0, 0.05).
AttentionCache RandomCache(const AttentionCase& c, int64_t num_blocks, DType dtype, uint64_t seed);

// `seed` chooses the order of the blocks.
AttentionInputs MakeAttentionInputs(const AttentionCase& c, uint64_t seed = 1);

}  // namespace intermix
