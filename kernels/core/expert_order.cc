#include "kernels/core/expert_order.h"

#include <algorithm>
#include <vector>

namespace intermix {

void SortByExpertOnHost(const Tensor& experts, int32_t first_expert, const ExpertOrder& out) {
  const int64_t top_k = experts.cols();
  const int64_t slots = experts.rows() * top_k;
  const int32_t num_experts = static_cast<int32_t>(out.row_offsets.rows()) - 1;
  CHECK_EQ(out.token_of_row.rows(), slots);
  CHECK_EQ(out.row_of_slot.rows(), slots);
  const int32_t* expert_of_slot = experts.data<int32_t>();
  int32_t* tokens = out.token_of_row.data<int32_t>();
  int32_t* rows = out.row_of_slot.data<int32_t>();
  int32_t* offsets = out.row_offsets.data<int32_t>();

  const auto local = [&](int64_t slot) { return expert_of_slot[slot] - first_expert; };
  const auto is_local = [&](int64_t slot) { return local(slot) >= 0 && local(slot) < num_experts; };
  std::fill_n(offsets, num_experts + 1, 0);
  for (int64_t s = 0; s < slots; ++s) {
    if (is_local(s)) ++offsets[local(s) + 1];
  }
  for (int32_t e = 0; e < num_experts; ++e) offsets[e + 1] += offsets[e];

  std::vector<int32_t> next(offsets, offsets + num_experts);
  std::fill_n(tokens, slots, 0);
  for (int64_t s = 0; s < slots; ++s) {
    rows[s] = is_local(s) ? next[local(s)]++ : -1;
    if (rows[s] >= 0) tokens[rows[s]] = static_cast<int32_t>(s / top_k);
  }
}

void AddRowCountsOnHost(const Tensor& row_offsets, const Tensor& totals) {
  CHECK_EQ(row_offsets.rows(), totals.rows() + 1);
  const int32_t* offsets = row_offsets.data<int32_t>();
  for (int64_t e = 0; e < totals.rows(); ++e) {
    int32_t& total = totals.data<int32_t>()[e];
    total = static_cast<int32_t>(static_cast<uint32_t>(total) +
                                 static_cast<uint32_t>(offsets[e + 1] - offsets[e]));
  }
}

}  // namespace intermix
