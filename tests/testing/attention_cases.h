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

// `seed` chooses the order of the blocks.
AttentionInputs MakeAttentionInputs(const AttentionCase& c, uint64_t seed = 1);

}  // namespace intermix
