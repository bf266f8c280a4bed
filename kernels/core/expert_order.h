// Backend::SortByExpert and AddRowCounts for backends whose memory the host can read.
#pragma once

#include <cstdint>

#include "kernels/core/tensor.h"

namespace intermix {

// A stable counting sort of the slots by expert; see Backend::SortByExpert for the tensors.
void SortByExpertOnHost(const Tensor& experts, int32_t first_expert, const Tensor& token_of_row,
                        const Tensor& row_of_slot, const Tensor& row_offsets);

void AddRowCountsOnHost(const Tensor& row_offsets, const Tensor& totals);

}  // namespace intermix
