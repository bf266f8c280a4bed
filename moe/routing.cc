#include "moe/routing.h"

namespace intermix {

ExpertOrder SortByExpert(const Execution& exec, const Tensor& experts, int64_t first_expert,
                         int64_t num_experts) {
  const int64_t slots = experts.rows() * experts.cols();
  const ExpertOrder order = {.token_of_row = exec.Take(DType::kI32, {slots}),
                             .row_of_slot = exec.Take(DType::kI32, {slots}),
                             .row_offsets = exec.Take(DType::kI32, {num_experts + 1})};
  exec.backend.SortByExpert(experts, static_cast<int32_t>(first_expert), order.token_of_row,
                            order.row_of_slot, order.row_offsets);
  return order;
}

Activations GatherActivations(const Execution& exec, const Activations& rows, const Tensor& index) {
  const Activations out = exec.TakeActivations(index.rows(), rows.values.cols(), rows.quantized());
  exec.backend.GatherRows(rows.values, index, out.values);
  if (rows.quantized()) exec.backend.GatherRows(rows.scales, index, out.scales);
  return out;
}

}  // namespace intermix
