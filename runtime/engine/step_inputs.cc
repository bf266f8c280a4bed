#include "runtime/engine/step_inputs.h"

#include <algorithm>
#include <bit>

#include "kernels/core/check.h"

namespace intermix {
namespace {

void AppendChunk(const SequenceChunk& chunk, int32_t block_size, StepInputs* inputs) {
  const int32_t first = static_cast<int32_t>(inputs->token_ids.size());
  const int32_t count = static_cast<int32_t>(chunk.tokens.size());
  CHECK_LE(chunk.end(), static_cast<int64_t>(chunk.blocks.size()) * block_size);
  for (int32_t i = 0; i < count; ++i) {
    const int32_t position = chunk.start + i;
    inputs->token_ids.push_back(chunk.tokens[i]);
    inputs->positions.push_back(position);
    inputs->slots.push_back(chunk.blocks[position / block_size] * block_size +
                            position % block_size);
    const bool last = i == count - 1;
    if (chunk.logits == LogitsWanted::kAll || (chunk.logits == LogitsWanted::kLast && last)) {
      inputs->logits_tokens.push_back(first + i);
    }
  }
  inputs->query_starts.push_back(first + count);
}

}  // namespace

int64_t BlockTableColumns(const Batch& batch) {
  size_t most = 0;
  for (const SequenceChunk& chunk : batch.chunks) most = std::max(most, chunk.blocks.size());
  return static_cast<int64_t>(std::bit_ceil(uint64_t{most}));
}

StepInputs MakeStepInputs(const Batch& batch, int dp_rank, int32_t block_size) {
  StepInputs inputs;
  inputs.query_starts.push_back(0);
  for (const SequenceChunk& chunk : batch.chunks) {
    if (chunk.dp_rank == dp_rank) AppendChunk(chunk, block_size, &inputs);
  }
  inputs.max_blocks = BlockTableColumns(batch);
  for (const SequenceChunk& chunk : batch.chunks) {
    if (chunk.dp_rank != dp_rank) continue;
    inputs.block_tables.insert(inputs.block_tables.end(), chunk.blocks.begin(), chunk.blocks.end());
    inputs.block_tables.resize(inputs.block_tables.size() + inputs.max_blocks -
                               chunk.blocks.size());
  }
  return inputs;
}

std::vector<int64_t> TokensOfGroups(const Batch& batch, int num_dp_groups) {
  std::vector<int64_t> tokens(num_dp_groups, 0);
  for (const SequenceChunk& chunk : batch.chunks) {
    tokens[chunk.dp_rank] += static_cast<int64_t>(chunk.tokens.size());
  }
  return tokens;
}

std::vector<int64_t> LogitsRowsOfGroups(const Batch& batch, int num_dp_groups) {
  std::vector<int64_t> rows(num_dp_groups, 0);
  for (const SequenceChunk& chunk : batch.chunks) rows[chunk.dp_rank] += chunk.num_logits_rows();
  return rows;
}

std::vector<int32_t> LogitsRowOrder(const Batch& batch, int num_dp_groups) {
  const std::vector<int64_t> rows = LogitsRowsOfGroups(batch, num_dp_groups);
  std::vector<int32_t> next(num_dp_groups, 0);
  for (int g = 1; g < num_dp_groups; ++g) {
    next[g] = next[g - 1] + static_cast<int32_t>(rows[g - 1]);
  }
  std::vector<int32_t> order;
  for (const SequenceChunk& chunk : batch.chunks) {
    for (int32_t i = 0; i < chunk.num_logits_rows(); ++i) order.push_back(next[chunk.dp_rank]++);
  }
  return order;
}

}  // namespace intermix
