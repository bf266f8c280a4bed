// Backend::SortByExpert and AddRowCounts for backends whose memory the host can read.
#pragma once

#include <cstdint>

#include "kernels/core/tensor.h"
#include "kernels/operands.h"

namespace intermix {

// A stable counting sort of the slots by expert: all of Backend::SortByExpert but totals and rows.
void SortByExpertOnHost(const Tensor& experts, int32_t first_expert, const ExpertOrder& out);

void AddRowCountsOnHost(const Tensor& row_offsets, const Tensor& totals);

}  // namespace intermix
