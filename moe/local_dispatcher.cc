#include "moe/token_dispatcher.h"

namespace intermix {
namespace {

class LocalDispatcher final : public TokenDispatcher {
 public:
  explicit LocalDispatcher(const ExpertPlacement& placement) : placement_(placement) {}

  ExpertInput Dispatch(const Execution& exec, const TokenRows&, const Activations& tokens,
                       const Routing& routing) override {
    const ExpertOrder order = SortByExpert(exec, routing.experts, 0, placement_.num_experts);
    row_of_ = order.row_of_slot.Reshape({routing.tokens(), routing.top_k()});
    return {.rows = GatherActivations(exec, tokens, order.token_of_row),
            .row_offsets = order.row_offsets};
  }

  ExpertResults Combine(const Execution&, const Tensor& output) override {
    return {.rows = output, .row_of = row_of_};
  }

 private:
  ExpertPlacement placement_;
  Tensor row_of_;
};

}  // namespace

std::unique_ptr<TokenDispatcher> MakeLocalDispatcher(const ExpertPlacement& placement) {
  return std::make_unique<LocalDispatcher>(placement);
}

}  // namespace intermix
