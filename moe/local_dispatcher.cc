#include "moe/token_dispatcher.h"

namespace intermix {
namespace {

class LocalDispatcher final : public TokenDispatcher {
 public:
  std::vector<ExpertResults> Run(const Execution& exec, const TokenRows&, const Activations& tokens,
                                 const Routing& routing, const ExpertWork& work) override {
    const ExpertOrder order = GroupByExpert(exec, tokens, routing.experts, 0, work.totals);
    const Tensor output = work.run({.rows = order.rows, .row_offsets = order.row_offsets});
    return {{.tokens = {.begin = 0, .end = routing.tokens()},
             .rows = output,
             .row_of = order.row_of_slot.Reshape({routing.tokens(), routing.top_k()})}};
  }
};

}  // namespace

std::unique_ptr<TokenDispatcher> MakeLocalDispatcher() {
  return std::make_unique<LocalDispatcher>();
}

}  // namespace intermix
