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
  const Tensor gate_up = exec.Take(DType::kF32, {n, gate_up_.front()->n()});
  Multiply(exec, rows, gate_up_, row_offsets, gate_up);
  const Tensor hidden = exec.Take(DType::kBF16, {n, gate_up.cols() / 2});
  exec.backend.SiluMul(gate_up, hidden);
  const Activations whole = group_.AllColumns(exec, placement, hidden, down_.front()->quantized());
  const Tensor out = exec.Take(DType::kBF16, {n, down_.front()->n()});
  Multiply(exec, whole, down_, row_offsets, out);
  return out;
}

void GroupedExperts::Multiply(const Execution& exec, const Activations& x,
                              const std::vector<const PackedWeight*>& weights,
                              const Tensor& row_offsets, Tensor y) const {
  if (row_offsets.empty()) {
    CHECK_EQ(weights.size(), 1u);
    exec.backend.Gemm(x, *weights.front(), y);
  } else {
    exec.backend.GroupedGemm(x, weights, row_offsets, y);
  }
}

int64_t GroupedExperts::weight_bytes() const {
  int64_t total = 0;
  for (const ExpertWeights& expert : experts_) total += expert.bytes();
  return total;
}

}  // namespace intermix
