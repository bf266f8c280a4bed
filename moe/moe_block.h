// MoeBlock: Mixtral's router and experts. Routes this rank's rows, dispatches them to their
// experts, and adds the weighted results to the residual stream, slots in ascending order.
#pragma once

#include <memory>
#include <vector>

#include "kernels/core/buffer.h"
#include "moe/feed_forward.h"
#include "moe/grouped_experts.h"
#include "moe/token_dispatcher.h"

namespace intermix {

// How tokens travel under each placement; shared by all layers of a model.
struct Dispatchers {
  std::unique_ptr<TokenDispatcher> replicated;  // for TokenPlacement::kReplicated
  std::unique_ptr<TokenDispatcher> sharded;     // for TokenPlacement::kSharded

  TokenDispatcher& For(TokenPlacement placement) const {
    return placement == TokenPlacement::kSharded ? *sharded : *replicated;
  }
};

Dispatchers MakeDispatchers(const ExpertPlacement& placement, const ParallelGroups& groups);

class MoeBlock final : public FeedForward {
 public:
  struct Options {
    OwnedTensor gate;                    // [num_experts, hidden] float32
    std::vector<ExpertWeights> experts;  // this rank's, in order
    int top_k = 2;
    Tensor totals;             // [this rank's experts] int32: rows that each worked on, mod 2^32
    Communicator& etp;         // outlives the block
    Dispatchers& dispatchers;  // outlives the block
  };
  explicit MoeBlock(Options options);

  bool quantized() const override { return experts_.quantized(); }
  void Forward(const Execution& exec, const TokenRows& rows, const NextNorm& next,
               ResidualStream& stream) override;
  int64_t weight_bytes() const override { return experts_.weight_bytes() + gate_.view.bytes(); }

 private:
  OwnedTensor gate_;
  GroupedExperts experts_;
  int top_k_;
  Tensor totals_;
  Dispatchers& dispatchers_;
};

}  // namespace intermix
