#include "moe/token_dispatcher.h"

namespace intermix {
namespace {

class LocalDispatcher final : public TokenDispatcher {
 public:
  explicit LocalDispatcher(const ExpertPlacement& placement) : placement_(placement) {}

  std::vector<ExpertResults> Run(const Execution& exec, const TokenRows&, const Activations& tokens,
                                 const Routing& routing, const ExpertWork& work) override {
    const ExpertOrder order = SortByExpert(exec, routing.experts, 0, placement_.num_experts);
    const Tensor output = work({.rows = GatherActivations(exec, tokens, order.token_of_row),
                                .row_offsets = order.row_offsets});
    return {{.tokens = {.begin = 0, .end = routing.tokens()},
             .rows = output,
             .row_of = order.row_of_slot.Reshape({routing.tokens(), routing.top_k()})}};
  }

 private:
  ExpertPlacement placement_;
};

}  // namespace

std::unique_ptr<TokenDispatcher> MakeLocalDispatcher(const ExpertPlacement& placement) {
  return std::make_unique<LocalDispatcher>(placement);
}

}  // namespace intermix
