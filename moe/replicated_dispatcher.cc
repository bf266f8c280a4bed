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

  ExpertInput Dispatch(const Execution& exec, const TokenRows& rows, const Activations& tokens,
                       const Routing& routing) override {
    group_tokens_ = rows.group_tokens;
    top_k_ = routing.top_k();
    const Tensor experts = GatherGroups(exec, routing.experts);
    const Activations all = {
        .values = GatherGroups(exec, tokens.values),
        .scales = tokens.quantized() ? GatherGroups(exec, tokens.scales) : Tensor()};
    const Slice mine = placement_.experts_of_group(placement_.layout.ep_rank(world_.rank()));
    order_ = SortByExpert(exec, experts, mine.begin, mine.size());
    return {.rows = GatherActivations(exec, all, order_.token_of_row),
            .row_offsets = order_.row_offsets};
  }

  ExpertResults Combine(const Execution& exec, const Tensor& output) override {
    const int etp = placement_.layout.etp;
    const int64_t cols = output.cols();
    const Tensor merged = exec.Take(output.dtype(), {order_.row_of_slot.rows(), cols * etp});
    const int64_t begin = placement_.layout.etp_rank(world_.rank()) * cols;
    if (etp > 1) exec.backend.Zero(merged);
    exec.backend.GatherRows(output, order_.row_of_slot, merged.Cols(begin, begin + cols));
    CHECK_EQ(merged.bytes() % 4, 0);
    world_.Merge(merged.raw(), merged.bytes() / 4);

    const int64_t first = Total(std::span(group_tokens_).first(dp_.rank())) * top_k_;
    const int64_t slots = group_tokens_[dp_.rank()] * top_k_;
    return {.rows = merged.Rows(first, first + slots), .row_of = Tensor()};
  }

 private:
  // The dp groups' rows one after the other.
  Tensor GatherGroups(const Execution& exec, const Tensor& mine) {
    if (dp_.size() == 1) return mine;
    const int64_t total = Total(group_tokens_);
    const Tensor all = mine.rank() == 1 ? exec.Take(mine.dtype(), {total})
                                        : exec.Take(mine.dtype(), {total, mine.cols()});
    dp_.AllGather(mine.raw(), all.raw(), RowBytes(group_tokens_, BytesPerRow(mine)));
    return all;
  }

  ExpertPlacement placement_;
  Communicator& world_;
  Communicator& dp_;

  // Of the step under way, between Dispatch and Combine.
  ExpertOrder order_;  // of all dp groups' tokens
  int64_t top_k_ = 1;
  std::vector<int64_t> group_tokens_;
};

}  // namespace

std::unique_ptr<TokenDispatcher> MakeReplicatedDispatcher(const ExpertPlacement& placement,
                                                          const ParallelGroups& groups) {
  return std::make_unique<ReplicatedDispatcher>(placement, groups);
}

}  // namespace intermix
