#include "moe/moe_block.h"

#include <algorithm>
#include <utility>

namespace intermix {

Dispatchers MakeDispatchers(const ExpertPlacement& placement, const ParallelGroups& groups) {
  if (groups.world->size() == 1) {
    return {.replicated = MakeLocalDispatcher(placement),
            .sharded = MakeLocalDispatcher(placement)};
  }
  return {.replicated = MakeReplicatedDispatcher(placement, groups),
          .sharded = MakeAllToAllDispatcher(placement, *groups.world)};
}

MoeBlock::MoeBlock(Options options)
    : gate_(std::move(options.gate)),
      experts_(std::move(options.experts), options.etp),
      placement_(options.placement),
      ep_rank_(options.ep_rank),
      top_k_(options.top_k),
      dispatchers_(options.dispatchers) {}

void MoeBlock::Forward(const Execution& exec, const TokenRows& rows, const NormedRows& normed,
                       Tensor residual) {
  const int64_t tokens = rows.mine.size();
  const Routing routing = {.experts = exec.Take(DType::kI32, {tokens, top_k_}),
                           .weights = exec.Take(DType::kF32, {tokens, top_k_})};
  exec.backend.Route(normed.values, gate_.view, routing.experts, routing.weights);

  TokenDispatcher& dispatcher = dispatchers_.For(rows.placement);
  const ExpertInput input = dispatcher.Dispatch(exec, normed.activations, routing);
  const Tensor output = experts_.Forward(exec, rows.placement, input.rows, input.offsets);
  const ExpertResults results = dispatcher.Combine(exec, output);
  exec.backend.CombineExperts(results.rows, results.row_of, routing.weights, residual);
}

std::vector<int64_t> MoeBlock::expert_tokens() const {
  std::vector<int64_t> all(placement_.num_experts, 0);
  std::ranges::copy(experts_.expert_tokens(),
                    all.begin() + placement_.experts_of_group(ep_rank_).begin);
  return all;
}

}  // namespace intermix
