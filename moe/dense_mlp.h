// DenseMlp: LLaMA's gate, up, SiLU, down, sharded over the tensor parallel group.
#pragma once

#include <utility>
#include <vector>

#include "moe/feed_forward.h"
#include "moe/grouped_experts.h"

namespace intermix {

class DenseMlp final : public FeedForward {
 public:
  // `tp` outlives this.
  DenseMlp(ExpertWeights weights, Communicator& tp) : tp_(tp), mlp_(One(std::move(weights)), tp) {}

  bool quantized() const override { return mlp_.quantized(); }
  void Forward(const Execution& exec, const TokenRows& rows, const NextNorm& next,
               ResidualStream& stream) override;
  int64_t weight_bytes() const override { return mlp_.weight_bytes(); }

 private:
  static std::vector<ExpertWeights> One(ExpertWeights weights) {
    std::vector<ExpertWeights> list;
    list.push_back(std::move(weights));
    return list;
  }

  TensorGroup tp_;
  GroupedExperts mlp_;
};

}  // namespace intermix
