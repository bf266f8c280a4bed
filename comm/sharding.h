// Which slice of every weight a rank holds: a pure function of the model's dimensions and the
// layout. Every linear layer is cut along its outputs, never along K (architecture.md, "Parallel
// layout").
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "comm/parallel_layout.h"

namespace intermix {

// A half-open range of indices.
struct Slice {
  int64_t begin = 0;
  int64_t end = 0;
  int64_t size() const { return end - begin; }
  friend bool operator==(const Slice&, const Slice&) = default;
};

// Part `index` of `count` near-equal consecutive parts of [0, total).
Slice Part(int64_t total, int64_t count, int64_t index);

struct ShardDims {
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;
  int64_t num_attention_heads = 0;
  int64_t num_key_value_heads = 0;
  int64_t vocab_size = 0;
  int64_t num_experts = 0;  // 0: dense
};

struct ShardPlan {
  Slice heads;     // query heads of q_proj
  Slice kv_heads;  // of k_proj and v_proj; replicated where tp exceeds their number
  std::vector<int32_t> kv_head_of;  // [heads.size()]: index into this rank's kv_heads
  Slice hidden;        // outputs of o_proj and of the dense down_proj; embedding columns
  Slice intermediate;  // outputs of the dense gate_proj and up_proj
  Slice vocab;         // outputs of lm_head; may end beyond vocab_size: padded with zero rows
  int64_t padded_vocab_size = 0;
  Slice experts;              // whole experts of this rank's expert group
  Slice expert_intermediate;  // outputs of those experts' gate and up
  Slice expert_hidden;        // outputs of those experts' down
};

//   INVALID_ARGUMENT naming the dimension and the number of ranks that does not divide it.
absl::StatusOr<ShardPlan> MakeShardPlan(const ShardDims& dims, const ParallelLayout& layout,
                                        int rank);

// Everything that speaks against --tp `tp` --ep `ep` (0: automatic, by `cut`) for a job of `world`
// ranks and this model, a sentence each: none where there is a layout with a plan for every rank.
std::vector<std::string> LayoutProblems(const ShardDims& dims, int world, int tp, int ep,
                                        int cut = 1);

}  // namespace intermix
