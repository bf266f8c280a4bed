// Every rank knows every token (after a gather over dp, where there are several groups), so each
// picks its experts' rows without asking, and one all-gather brings all results to everyone.
#include "comm/byte_counts.h"
#include "moe/expert_shards.h"
#include "moe/token_dispatcher.h"

namespace intermix {
namespace {

class ReplicatedDispatcher final : public TokenDispatcher {
 public:
  ReplicatedDispatcher(const ExpertPlacement& placement, const ParallelGroups& groups)
      : placement_(placement), world_(*groups.world), dp_(*groups.dp) {}

  ExpertInput Dispatch(const Execution& exec, const Activations& tokens,
                       const Routing& routing) override {
    top_k_ = routing.top_k();
    ExchangeCounts(routing.tokens());
    const Routing everyone = {.experts = GatherGroups(exec, routing.experts), .weights = Tensor()};
    const Activations all = {
        .values = GatherGroups(exec, tokens.values),
        .scales = tokens.quantized() ? GatherGroups(exec, tokens.scales) : Tensor()};
    order_ = SortByExpert(everyone, placement_.num_experts);

    const int group = placement_.layout.ep_rank(world_.rank());
    const Slice rows = GroupRows(placement_, order_, group);
    const Tensor index = ToTensor(
        exec, {order_.token_of_row.begin() + rows.begin, order_.token_of_row.begin() + rows.end});
    std::vector<int32_t> offsets;
    const Slice experts = placement_.experts_of_group(group);
    for (int64_t e = experts.begin; e <= experts.end; ++e) {
      offsets.push_back(order_.offsets[e] - static_cast<int32_t>(rows.begin));
    }
    return {.rows = GatherActivations(exec, all, index), .offsets = std::move(offsets)};
  }

  ExpertResults Combine(const Execution& exec, const Tensor& output) override {
    std::vector<int64_t> rows;
    for (int r = 0; r < world_.size(); ++r) {
      rows.push_back(GroupRows(placement_, order_, placement_.layout.ep_rank(r)).size());
    }
    const Tensor gathered = exec.Take(output.dtype(), {Total(rows), output.cols()});
    world_.AllGather(output.raw(), gathered.raw(), RowBytes(rows, BytesPerRow(output)));

    const int64_t first = Total(std::span(dp_tokens_).first(dp_.rank())) * top_k_;
    const int64_t mine = dp_tokens_[dp_.rank()] * top_k_;
    const auto begin = order_.row_of_slot.begin() + first;
    return {.rows = MergeGroups(exec, placement_, order_, gathered),
            .row_of = ToTensor(exec, {begin, begin + mine}, top_k_)};
  }

 private:
  void ExchangeCounts(int64_t tokens) {
    dp_tokens_.resize(dp_.size());
    dp_.AllGather(&tokens, dp_tokens_.data(), std::vector<int64_t>(dp_.size(), sizeof(tokens)));
  }

  // The dp groups' rows one after the other.
  Tensor GatherGroups(const Execution& exec, const Tensor& mine) {
    if (dp_.size() == 1) return mine;
    const int64_t total = Total(dp_tokens_);
    const Tensor all = mine.rank() == 1 ? exec.Take(mine.dtype(), {total})
                                        : exec.Take(mine.dtype(), {total, mine.cols()});
    dp_.AllGather(mine.raw(), all.raw(), RowBytes(dp_tokens_, BytesPerRow(mine)));
    return all;
  }

  ExpertPlacement placement_;
  Communicator& world_;
  Communicator& dp_;

  // Of the step under way, between Dispatch and Combine.
  ExpertOrder order_;  // of all tokens of all dp groups
  int64_t top_k_ = 1;
  std::vector<int64_t> dp_tokens_;  // [dp] tokens of each group
};

}  // namespace

std::unique_ptr<TokenDispatcher> MakeReplicatedDispatcher(const ExpertPlacement& placement,
                                                          const ParallelGroups& groups) {
  return std::make_unique<ReplicatedDispatcher>(placement, groups);
}

}  // namespace intermix
