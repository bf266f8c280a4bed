// MergeLikeliest: the likeliest tokens of a vocabulary that lies in slices on several ranks, from
// those of each slice. A pure function; any thread.
#pragma once

#include <cstdint>
#include <span>

#include "runtime/engine/step_logits.h"

namespace intermix {

// For each row i: out's row place[i] = the first k of all slices' tokens.
//   shards      [slices, 2, rows, k]: of each slice the values (float32), then the columns (int32)
//               that Backend::TopK found; on the host
//   slice_size  tokens of a slice
//   place       [rows] rows of out
//   out         [.., k]
void MergeLikeliest(const Tensor& shards, int64_t slice_size, std::span<const int32_t> place,
                    const StepLogits& out);

}  // namespace intermix
