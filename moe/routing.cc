#include "moe/routing.h"

#include <algorithm>

#include "kernels/core/check.h"

namespace intermix {

ExpertOrder SortByExpert(const Routing& routing, int num_experts) {
  const int32_t* experts = routing.experts.data<int32_t>();
  const int64_t slots = routing.tokens() * routing.top_k();
  ExpertOrder order{.token_of_row = std::vector<int32_t>(slots),
                    .row_of_slot = std::vector<int32_t>(slots),
                    .offsets = std::vector<int32_t>(num_experts + 1, 0)};
  for (int64_t s = 0; s < slots; ++s) {
    CHECK(0 <= experts[s] && experts[s] < num_experts) << "expert " << experts[s];
    ++order.offsets[experts[s] + 1];
  }
  for (int e = 0; e < num_experts; ++e) order.offsets[e + 1] += order.offsets[e];
  std::vector<int32_t> next(order.offsets.begin(), order.offsets.end() - 1);
  for (int64_t s = 0; s < slots; ++s) {
    const int32_t row = next[experts[s]]++;
    order.token_of_row[row] = static_cast<int32_t>(s / routing.top_k());
    order.row_of_slot[s] = row;
  }
  return order;
}

Activations GatherActivations(const Execution& exec, const Activations& rows, const Tensor& index) {
  const Activations out = exec.TakeActivations(index.rows(), rows.values.cols(), rows.quantized());
  exec.backend.GatherRows(rows.values, index, out.values);
  if (rows.quantized()) exec.backend.GatherRows(rows.scales, index, out.scales);
  return out;
}

Tensor ToTensor(const Execution& exec, const std::vector<int32_t>& values) {
  const Tensor tensor = exec.Take(DType::kI32, {static_cast<int64_t>(values.size())});
  std::ranges::copy(values, tensor.data<int32_t>());
  return tensor;
}

Tensor ToTensor(const Execution& exec, const std::vector<int32_t>& values, int64_t cols) {
  const int64_t rows = static_cast<int64_t>(values.size()) / cols;
  return Tensor(ToTensor(exec, values).raw(), DType::kI32, {rows, cols});
}

}  // namespace intermix
