// Every rank knows every token (after a gather over dp, where there are several groups), so each
// picks its experts' rows without asking. Results go to their slots in a buffer that is zero
// elsewhere, and one Merge gives every rank all of them.
#include "comm/byte_counts.h"
#include "moe/token_dispatcher.h"

namespace intermix {
namespace {

class ReplicatedDispatcher final : public TokenDispatcher {
 public:
  ReplicatedDispatcher(const ExpertPlacement& placement, const ParallelGroups& groups)
      : placement_(placement), world_(*groups.world), dp_(*groups.dp) {}

  std::vector<ExpertResults> Run(const Execution& exec, const TokenRows& rows,
                                 const Activations& tokens, const Routing& routing,
                                 const ExpertWork& work) override {
    const std::vector<int64_t>& groups = rows.group_tokens;
    const Tensor experts = GatherGroups(exec, groups, routing.experts);
    const Activations all = {
        .values = GatherGroups(exec, groups, tokens.values),
        .scales = tokens.quantized() ? GatherGroups(exec, groups, tokens.scales) : Tensor()};
    const Slice mine = placement_.experts_of_group(placement_.layout.ep_rank(world_.rank()));
    const ExpertOrder order = GroupByExpert(exec, all, experts, mine.begin, work.totals);
    const Tensor merged = MergeResults(
        exec, order.row_of_slot, work.run({.rows = order.rows, .row_offsets = order.row_offsets}));
    const int64_t top_k = routing.top_k();
    const int64_t first = Total(std::span(groups).first(dp_.rank())) * top_k;
    return {{.tokens = {.begin = 0, .end = routing.tokens()},
             .rows = merged.Rows(first, first + groups[dp_.rank()] * top_k),
             .row_of = Tensor()}};
  }

 private:
  // The dp groups' rows one after the other.
  Tensor GatherGroups(const Execution& exec, const std::vector<int64_t>& groups,
                      const Tensor& mine) const {
    if (dp_.size() == 1) return mine;
    const int64_t total = Total(groups);
    const Tensor all = mine.rank() == 1 ? exec.Take(mine.dtype(), {total})
                                        : exec.Take(mine.dtype(), {total, mine.cols()});
    dp_.AllGather(mine.raw(), all.raw(), RowBytes(groups, BytesPerRow(mine)));
    return all;
  }

  // Every rank's results, at their slots.
  Tensor MergeResults(const Execution& exec, const Tensor& row_of_slot, const Tensor& output) {
    const int etp = placement_.layout.etp;
    const int64_t cols = output.cols();
    const Tensor merged = exec.Take(output.dtype(), {row_of_slot.rows(), cols * etp});
    const int64_t begin = placement_.layout.etp_rank(world_.rank()) * cols;
    if (etp > 1) exec.backend.Zero(merged);
    exec.backend.GatherRows(output, row_of_slot, merged.Cols(begin, begin + cols));
    CHECK_EQ(merged.bytes() % 4, 0);
    world_.Merge(merged.raw(), merged.bytes() / 4);
    return merged;
  }

  ExpertPlacement placement_;
  Communicator& world_;
  Communicator& dp_;
};

}  // namespace

std::unique_ptr<TokenDispatcher> MakeReplicatedDispatcher(const ExpertPlacement& placement,
                                                          const ParallelGroups& groups) {
  return std::make_unique<ReplicatedDispatcher>(placement, groups);
}

}  // namespace intermix
