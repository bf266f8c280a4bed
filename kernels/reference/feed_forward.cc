// The router, and the order of rows by expert.
#include <algorithm>
#include <limits>
#include <vector>

#include "kernels/core/expert_order.h"
#include "kernels/core/lane_math.h"
#include "kernels/reference/reference_backend.h"

namespace intermix {
namespace {

// The `top_k` largest logits, ties to the lowest expert; their softmax over the chosen ones.
//   experts, weights  [top_k]
void ChooseExperts(const std::vector<float>& logits, int64_t top_k, int32_t* experts,
                   float* weights) {
  if (std::any_of(logits.begin(), logits.end(), [](float x) { return x != x; })) {
    for (int64_t i = 0; i < top_k; ++i) {
      experts[i] = static_cast<int32_t>(i);
      weights[i] = std::numeric_limits<float>::quiet_NaN();
    }
    return;
  }
  std::vector<int32_t> order(logits.size());
  for (size_t e = 0; e < order.size(); ++e) order[e] = static_cast<int32_t>(e);
  std::stable_sort(order.begin(), order.end(),
                   [&](int32_t a, int32_t b) { return logits[a] > logits[b]; });
  float sum = 0.0f;
  for (int64_t i = 0; i < top_k; ++i) {
    experts[i] = order[i];
    weights[i] = LaneExp(logits[order[i]] - logits[order[0]]);
    sum = sum + weights[i];
  }
  for (int64_t i = 0; i < top_k; ++i) weights[i] = weights[i] / sum;
}

}  // namespace

void ReferenceBackend::Route(const Tensor& x, const Tensor& gate, Tensor experts, Tensor weights) {
  const int64_t top_k = experts.cols();
  CHECK_EQ(gate.cols(), x.cols());
  CHECK_EQ(weights.cols(), top_k);
  CHECK_LE(top_k, gate.rows());
  std::vector<float> logits(gate.rows());
  for (int64_t m = 0; m < x.rows(); ++m) {
    for (int64_t e = 0; e < gate.rows(); ++e) {
      logits[e] = LaneDot(x.row<float>(m), gate.row<float>(e), x.cols());
    }
    ChooseExperts(logits, top_k, experts.row<int32_t>(m), weights.row<float>(m));
  }
}

void ReferenceBackend::SortByExpert(const Tensor& experts, int32_t first_expert,
                                    const Activations& tokens, const ExpertOrder& out) {
  SortByExpertOnHost(experts, first_expert, out);
  if (!out.totals.empty()) AddRowCounts(out.row_offsets, out.totals);
  if (out.rows.values.empty()) return;
  const int64_t rows = out.row_offsets.data<int32_t>()[out.row_offsets.rows() - 1];
  const Tensor index = out.token_of_row.Rows(0, rows);
  GatherRows(tokens.values, index, out.rows.values.Rows(0, rows));
  if (tokens.quantized()) GatherRows(tokens.scales, index, out.rows.scales.Rows(0, rows));
}

void ReferenceBackend::AddRowCounts(const Tensor& row_offsets, Tensor totals) {
  AddRowCountsOnHost(row_offsets, totals);
}

}  // namespace intermix
