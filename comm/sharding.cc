#include "comm/sharding.h"

#include <algorithm>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace intermix {
namespace {

absl::Status Divides(const std::string& name, int64_t size, const std::string& option, int ranks) {
  if (size % ranks == 0) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(option, " ", ranks, " does not divide the model's ", name, " of ", size));
}

}  // namespace

Slice Part(int64_t total, int64_t count, int64_t index) {
  return {.begin = total * index / count, .end = total * (index + 1) / count};
}

absl::StatusOr<ShardPlan> MakeShardPlan(const ShardDims& dims, const ParallelLayout& layout,
                                        int rank) {
  const int tp = layout.tp;
  const int tp_rank = layout.tp_rank(rank);
  for (const absl::Status& status :
       {Divides("num_attention_heads", dims.num_attention_heads, "--tp", tp),
        Divides("hidden_size", dims.hidden_size, "--tp", tp)}) {
    if (!status.ok()) return status;
  }
  const int64_t num_kv_heads = dims.num_key_value_heads;
  if (num_kv_heads % tp != 0 && tp % num_kv_heads != 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--tp ", tp, " neither divides nor is a multiple of the model's num_key_value_heads of ",
        num_kv_heads));
  }

  ShardPlan plan;
  plan.heads = Part(dims.num_attention_heads, tp, tp_rank);
  const int64_t group = dims.num_attention_heads / num_kv_heads;
  plan.kv_heads = {.begin = plan.heads.begin / group, .end = (plan.heads.end + group - 1) / group};
  for (int64_t head = plan.heads.begin; head < plan.heads.end; ++head) {
    plan.kv_head_of.push_back(static_cast<int32_t>(head / group - plan.kv_heads.begin));
  }
  plan.hidden = Part(dims.hidden_size, tp, tp_rank);
  const int64_t vocab_per_rank = (dims.vocab_size + tp - 1) / tp;
  plan.padded_vocab_size = vocab_per_rank * tp;
  plan.vocab = Part(plan.padded_vocab_size, tp, tp_rank);

  if (dims.num_experts == 0) {
    if (absl::Status s = Divides("intermediate_size", dims.intermediate_size, "--tp", tp);
        !s.ok()) {
      return s;
    }
    plan.intermediate = Part(dims.intermediate_size, tp, tp_rank);
    return plan;
  }
  const int etp = layout.etp;
  for (const absl::Status& status :
       {Divides("intermediate_size", dims.intermediate_size,
                "expert tensor parallelism (ranks / ep)", etp),
        Divides("hidden_size", dims.hidden_size, "expert tensor parallelism (ranks / ep)", etp),
        Divides("num_local_experts", dims.num_experts, "--ep", layout.ep)}) {
    if (!status.ok()) return status;
  }
  plan.experts = Part(dims.num_experts, layout.ep, layout.ep_rank(rank));
  plan.expert_intermediate = Part(dims.intermediate_size, etp, layout.etp_rank(rank));
  plan.expert_hidden = Part(dims.hidden_size, etp, layout.etp_rank(rank));
  return plan;
}

}  // namespace intermix
