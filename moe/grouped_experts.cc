#include "moe/grouped_experts.h"

#include <utility>

#include "kernels/core/check.h"

namespace intermix {

GroupedExperts::GroupedExperts(std::vector<ExpertWeights> experts, Communicator& group)
    : experts_(std::move(experts)), group_(group), tokens_(experts_.size()) {
  CHECK(!experts_.empty());
  for (const ExpertWeights& expert : experts_) {
    gate_up_.push_back(expert.gate_up.get());
    down_.push_back(expert.down.get());
  }
}

Tensor GroupedExperts::Forward(const Execution& exec, TokenPlacement placement,
                               const Activations& rows, std::span<const int32_t> offsets) {
  CHECK_EQ(offsets.size(), experts_.size() + 1);
  for (size_t e = 0; e < experts_.size(); ++e) {
    tokens_[e].fetch_add(offsets[e + 1] - offsets[e], std::memory_order_relaxed);
  }
  const int64_t n = rows.tokens();
  const Tensor gate_up = exec.Take(DType::kF32, {n, gate_up_.front()->n()});
  exec.backend.GroupedGemm(rows, gate_up_, offsets, gate_up);
  const Tensor hidden = exec.Take(DType::kBF16, {n, gate_up.cols() / 2});
  exec.backend.SiluMul(gate_up, hidden);
  const Activations whole = group_.AllColumns(exec, placement, hidden, down_.front()->quantized());
  const Tensor out = exec.Take(DType::kBF16, {n, down_.front()->n()});
  exec.backend.GroupedGemm(whole, down_, offsets, out);
  return out;
}

int64_t GroupedExperts::weight_bytes() const {
  int64_t total = 0;
  for (const ExpertWeights& expert : experts_) total += expert.bytes();
  return total;
}

std::vector<int64_t> GroupedExperts::expert_tokens() const {
  std::vector<int64_t> counts;
  for (const std::atomic<int64_t>& t : tokens_) {
    counts.push_back(t.load(std::memory_order_relaxed));
  }
  return counts;
}

}  // namespace intermix
