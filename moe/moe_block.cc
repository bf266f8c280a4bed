#include "moe/moe_block.h"

#include <limits>
#include <utility>

namespace intermix {
namespace {

// From this many tokens per rank on, two halves are faster than the whole, by reckoning. Mixtral
// 8x7B with an expert on each of 8 H200: a token's two rows take 54 ns to travel over NVLink at 400
// GB/s, forth as int8 and back as bfloat16 (430 ns between hosts at 50 GB/s), and some 800 ns of
// GEMMs, so half of the travel hides behind them. In return a layer's experts start twice (about 10
// launches more, 20 us) and read their weights twice (93 MB, 19 us, hidden where the GEMMs are at
// the multipliers' limit). That breaks even at 1500 tokens on one host, and at 190 between hosts.
constexpr int64_t kOverlapTokens = 512;

}  // namespace

Dispatchers MakeDispatchers(const ExpertPlacement& placement, const ParallelGroups& groups) {
  if (groups.world->size() == 1) {
    return {.replicated = MakeLocalDispatcher(), .sharded = MakeLocalDispatcher()};
  }
  const int64_t overlap_tokens = groups.overlap_tokens.value_or(
      groups.world->overlaps() ? kOverlapTokens : std::numeric_limits<int64_t>::max());
  return {.replicated = MakeReplicatedDispatcher(placement, groups),
          .sharded = MakeAllToAllDispatcher(placement, *groups.world, overlap_tokens)};
}

MoeBlock::MoeBlock(Options options)
    : gate_(std::move(options.gate)),
      experts_(std::move(options.experts), options.etp),
      top_k_(options.top_k),
      totals_(options.totals),
      dispatchers_(options.dispatchers) {}

void MoeBlock::Forward(const Execution& exec, const TokenRows& rows, const NextNorm& next,
                       ResidualStream& stream) {
  const NormedRows& normed = stream.normed();
  const int64_t tokens = rows.mine.size();
  const Routing routing = {.experts = exec.Take(DType::kI32, {tokens, top_k_}),
                           .weights = exec.Take(DType::kF32, {tokens, top_k_})};
  exec.backend.Route(normed.values, gate_.view, routing.experts, routing.weights);

  const ExpertWork work = {.totals = totals_, .run = [&](const ExpertInput& input) {
                             return experts_.Forward(exec, rows.placement, input.rows,
                                                     input.row_offsets);
                           }};
  TokenDispatcher& dispatcher = dispatchers_.For(rows.placement);
  for (const ExpertResults& results :
       dispatcher.Run(exec, rows, normed.activations, routing, work)) {
    const auto [begin, end] = results.tokens;
    stream.Add(exec, results.tokens,
               {.rows = results.rows,
                .row_of = results.row_of,
                .weights = routing.weights.Rows(begin, end)},
               next);
  }
}

}  // namespace intermix
