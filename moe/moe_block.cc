#include "moe/moe_block.h"

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
      top_k_(options.top_k),
      totals_(options.totals),
      dispatchers_(options.dispatchers) {}

void MoeBlock::Forward(const Execution& exec, const TokenRows& rows, const NormedRows& normed,
                       Tensor residual) {
  const int64_t tokens = rows.mine.size();
  const Routing routing = {.experts = exec.Take(DType::kI32, {tokens, top_k_}),
                           .weights = exec.Take(DType::kF32, {tokens, top_k_})};
  exec.backend.Route(normed.values, gate_.view, routing.experts, routing.weights);

  TokenDispatcher& dispatcher = dispatchers_.For(rows.placement);
  const ExpertInput input = dispatcher.Dispatch(exec, rows, normed.activations, routing);
  exec.backend.AddRowCounts(input.row_offsets, totals_);
  const Tensor output = experts_.Forward(exec, rows.placement, input.rows, input.row_offsets);
  const ExpertResults results = dispatcher.Combine(exec, output);
  exec.backend.CombineExperts(results.rows, results.row_of, routing.weights, residual);
}

}  // namespace intermix
