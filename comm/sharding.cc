#include "comm/sharding.h"

#include <algorithm>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace intermix {
namespace {

void Divides(const std::string& name, int64_t size, const std::string& option, int ranks,
             std::vector<std::string>& problems) {
  if (size % ranks == 0) return;
  problems.push_back(
      absl::StrCat(option, " ", ranks, " does not divide the model's ", name, " of ", size));
}

std::vector<std::string> ShardProblems(const ShardDims& dims, const ParallelLayout& layout) {
  std::vector<std::string> problems;
  const int tp = layout.tp;
  Divides("num_attention_heads", dims.num_attention_heads, "--tp", tp, problems);
  Divides("hidden_size", dims.hidden_size, "--tp", tp, problems);
  if (dims.num_key_value_heads % tp != 0 && tp % dims.num_key_value_heads != 0) {
    problems.push_back(absl::StrCat("--tp ", tp,
                                    " neither divides nor is a multiple of the model's "
                                    "num_key_value_heads of ",
                                    dims.num_key_value_heads));
  }
  if (dims.num_experts == 0) {
    Divides("intermediate_size", dims.intermediate_size, "--tp", tp, problems);
    return problems;
  }
  const std::string etp = "expert tensor parallelism (ranks / ep)";
  Divides("intermediate_size", dims.intermediate_size, etp, layout.etp, problems);
  Divides("hidden_size", dims.hidden_size, etp, layout.etp, problems);
  Divides("num_local_experts", dims.num_experts, "--ep", layout.ep, problems);
  return problems;
}

}  // namespace

Slice Part(int64_t total, int64_t count, int64_t index) {
  return {.begin = total * index / count, .end = total * (index + 1) / count};
}

absl::StatusOr<ShardPlan> MakeShardPlan(const ShardDims& dims, const ParallelLayout& layout,
                                        int rank) {
  const std::vector<std::string> problems = ShardProblems(dims, layout);
  if (!problems.empty()) return absl::InvalidArgumentError(problems.front());

  const int tp = layout.tp;
  const int tp_rank = layout.tp_rank(rank);
  ShardPlan plan;
  plan.heads = Part(dims.num_attention_heads, tp, tp_rank);
  const int64_t group = dims.num_attention_heads / dims.num_key_value_heads;
  plan.kv_heads = {.begin = plan.heads.begin / group, .end = (plan.heads.end + group - 1) / group};
  for (int64_t head = plan.heads.begin; head < plan.heads.end; ++head) {
    plan.kv_head_of.push_back(static_cast<int32_t>(head / group - plan.kv_heads.begin));
  }
  plan.hidden = Part(dims.hidden_size, tp, tp_rank);
  const int64_t vocab_per_rank = (dims.vocab_size + tp - 1) / tp;
  plan.padded_vocab_size = vocab_per_rank * tp;
  plan.vocab = Part(plan.padded_vocab_size, tp, tp_rank);

  if (dims.num_experts == 0) {
    plan.intermediate = Part(dims.intermediate_size, tp, tp_rank);
    return plan;
  }
  plan.experts = Part(dims.num_experts, layout.ep, layout.ep_rank(rank));
  plan.expert_intermediate = Part(dims.intermediate_size, layout.etp, layout.etp_rank(rank));
  plan.expert_hidden = Part(dims.hidden_size, layout.etp, layout.etp_rank(rank));
  return plan;
}

std::vector<std::string> LayoutProblems(const ShardDims& dims, int world, int tp, int ep, int cut) {
  const int experts = static_cast<int>(dims.num_experts);
  const absl::StatusOr<ParallelLayout> layout = ParallelLayout::Make(world, tp, ep, experts, cut);
  if (layout.ok()) return ShardProblems(dims, *layout);
  std::vector<std::string> problems;
  for (const absl::Status& status : {ParallelLayout::Make(world, tp, 0, experts).status(),
                                     ParallelLayout::Make(world, 0, ep, experts).status()}) {
    if (!status.ok()) problems.emplace_back(status.message());
  }
  return problems;
}

}  // namespace intermix
