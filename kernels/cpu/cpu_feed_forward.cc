// CpuBackend: the router, and the order of rows by expert.
#include <algorithm>
#include <limits>

#include "kernels/core/expert_order.h"
#include "kernels/core/lane_math.h"
#include "kernels/cpu/cpu_backend_class.h"

namespace intermix::cpu {
namespace {

// The `top_k` largest of `logits` [count], ties to the lowest expert, and their softmax. Insertion
// into a list of top_k: no memory, and count * top_k is small.
//   experts, weights  [top_k]
void ChooseExperts(const float* logits, int64_t count, int64_t top_k, int32_t* experts,
                   float* weights) {
  if (std::any_of(logits, logits + count, [](float x) { return x != x; })) {
    for (int64_t i = 0; i < top_k; ++i) {
      experts[i] = static_cast<int32_t>(i);
      weights[i] = std::numeric_limits<float>::quiet_NaN();
    }
    return;
  }
  for (int64_t e = 0; e < count; ++e) {
    int64_t at = std::min(e, top_k);
    while (at > 0 && logits[e] > logits[experts[at - 1]]) {
      if (at < top_k) experts[at] = experts[at - 1];
      --at;
    }
    if (at < top_k) experts[at] = static_cast<int32_t>(e);
  }
  float sum = 0.0f;
  for (int64_t i = 0; i < top_k; ++i) {
    weights[i] = LaneExp(logits[experts[i]] - logits[experts[0]]);
    sum = sum + weights[i];
  }
  for (int64_t i = 0; i < top_k; ++i) weights[i] = weights[i] / sum;
}

}  // namespace

void CpuBackend::Route(const Tensor& x, const Tensor& gate, Tensor experts, Tensor weights) {
  const int64_t top_k = experts.cols();
  CHECK_EQ(gate.cols(), x.cols());
  CHECK_EQ(weights.cols(), top_k);
  CHECK_LE(top_k, gate.rows());
  ReserveWorkerFloats(gate.rows());
  ForRows(x.rows(), gate.rows() * x.cols(), [&](int64_t m, int worker) {
    float* logits = WorkerFloats(worker);
    kernels_.rows.dot_f32({.x = x.row<float>(m),
                           .x_stride = x.stride(0),
                           .rows = 1,
                           .w = gate.data<float>(),
                           .w_stride = gate.stride(0),
                           .cols = gate.rows(),
                           .k = x.cols(),
                           .y = logits,
                           .y_stride = gate.rows()},
                          /*bf16_out=*/false);
    ChooseExperts(logits, gate.rows(), top_k, experts.row<int32_t>(m), weights.row<float>(m));
  });
}

void CpuBackend::SortByExpert(const Tensor& experts, int32_t first_expert,
                              const Activations& tokens, const ExpertOrder& out) {
  SortByExpertOnHost(experts, first_expert, out);
  if (!out.totals.empty()) AddRowCounts(out.row_offsets, out.totals);
  if (out.rows.values.empty()) return;
  const int64_t rows = out.row_offsets.data<int32_t>()[out.row_offsets.rows() - 1];
  const Tensor index = out.token_of_row.Rows(0, rows);
  GatherRows(tokens.values, index, out.rows.values.Rows(0, rows));
  if (tokens.quantized()) GatherRows(tokens.scales, index, out.rows.scales.Rows(0, rows));
}

void CpuBackend::AddRowCounts(const Tensor& row_offsets, Tensor totals) {
  AddRowCountsOnHost(row_offsets, totals);
}

}  // namespace intermix::cpu
