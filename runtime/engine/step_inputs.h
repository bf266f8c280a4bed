// StepInputs: a Batch as one dp group's ranks step it: flat arrays of token ids, positions, cache
// slots and block tables, made on the host from rank 0's plan.
#pragma once

#include <cstdint>
#include <vector>

#include "runtime/engine/batch.h"

namespace intermix {

struct StepInputs {
  std::vector<int32_t> token_ids;      // [tokens]
  std::vector<int32_t> positions;      // [tokens]
  std::vector<int32_t> slots;          // [tokens] block * block_size + offset
  std::vector<int32_t> query_starts;   // [sequences + 1]
  std::vector<int32_t> block_tables;   // [sequences, max_blocks]
  int64_t max_blocks = 1;              // BlockTableColumns
  std::vector<int32_t> logits_tokens;  // indices into token_ids, ascending

  int64_t num_tokens() const { return static_cast<int64_t>(token_ids.size()); }
  int64_t num_sequences() const { return static_cast<int64_t>(query_starts.size()) - 1; }
};

// The most blocks of a sequence of any dp group, so that a step has one shape on every rank, made a
// power of 2, so that steps keep their shape while sequences grow.
int64_t BlockTableColumns(const Batch& batch);

// The part of `batch` that dp group `dp_rank` steps; may be empty.
StepInputs MakeStepInputs(const Batch& batch, int dp_rank, int32_t block_size);

// How many tokens each dp group steps.
std::vector<int64_t> TokensOfGroups(const Batch& batch, int num_dp_groups);

// How many logits rows each dp group contributes.
std::vector<int64_t> LogitsRowsOfGroups(const Batch& batch, int num_dp_groups);

// For each wanted row in the order of the batch's chunks: where it is when the groups' rows stand
// one group after the other.
std::vector<int32_t> LogitsRowOrder(const Batch& batch, int num_dp_groups);

}  // namespace intermix
