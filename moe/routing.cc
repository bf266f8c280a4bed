#include "moe/routing.h"

namespace intermix {

namespace {

ExpertOrder TakeOrder(const Execution& exec, const Tensor& experts, int64_t num_experts) {
  const int64_t slots = experts.rows() * experts.cols();
  return {.token_of_row = exec.Take(DType::kI32, {slots}),
          .row_of_slot = exec.Take(DType::kI32, {slots}),
          .row_offsets = exec.Take(DType::kI32, {num_experts + 1})};
}

}  // namespace

ExpertOrder SortByExpert(const Execution& exec, const Tensor& experts, int64_t first_expert,
                         int64_t num_experts) {
  const ExpertOrder order = TakeOrder(exec, experts, num_experts);
  exec.backend.SortByExpert(experts, static_cast<int32_t>(first_expert), {}, order);
  return order;
}

ExpertOrder GroupByExpert(const Execution& exec, const Activations& tokens, const Tensor& experts,
                          int64_t first_expert, const Tensor& totals) {
  ExpertOrder order = TakeOrder(exec, experts, totals.rows());
  order.totals = totals;
  order.rows =
      exec.TakeActivations(order.token_of_row.rows(), tokens.values.cols(), tokens.quantized());
  exec.backend.SortByExpert(experts, static_cast<int32_t>(first_expert), tokens, order);
  return order;
}

Activations GatherActivations(const Execution& exec, const Activations& rows, const Tensor& index) {
  const Activations out = exec.TakeActivations(index.rows(), rows.values.cols(), rows.quantized());
  exec.backend.GatherRows(rows.values, index, out.values);
  if (rows.quantized()) exec.backend.GatherRows(rows.scales, index, out.scales);
  return out;
}

}  // namespace intermix
