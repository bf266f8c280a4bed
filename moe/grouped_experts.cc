#include "moe/grouped_experts.h"

#include <utility>

#include "kernels/core/check.h"

namespace intermix {

GroupedExperts::GroupedExperts(std::vector<ExpertWeights> experts, Communicator& group)
    : experts_(std::move(experts)), group_(group) {
  CHECK(!experts_.empty());
  for (const ExpertWeights& expert : experts_) {
    gate_up_.push_back(expert.gate_up.get());
    down_.push_back(expert.down.get());
  }
}

Tensor GroupedExperts::Forward(const Execution& exec, TokenPlacement placement,
                               const Activations& rows, const Tensor& row_offsets) const {
  const int64_t n = rows.tokens();
  const Tensor hidden = exec.Take(DType::kBF16, {n, gate_up_.front()->n() / 2});
  exec.backend.GatedGemm(rows, gate_up_, row_offsets, hidden);
  const Activations whole = group_.AllColumns(exec, placement, hidden, down_.front()->quantized());
  const Tensor out = exec.Take(DType::kBF16, {n, down_.front()->n()});
  if (row_offsets.empty()) {
    CHECK_EQ(down_.size(), 1u);
    exec.backend.Gemm(whole, *down_.front(), out);
  } else {
    exec.backend.GroupedGemm(whole, down_, row_offsets, out);
  }
  return out;
}

int64_t GroupedExperts::weight_bytes() const {
  int64_t total = 0;
  for (const ExpertWeights& expert : experts_) total += expert.bytes();
  return total;
}

}  // namespace intermix
