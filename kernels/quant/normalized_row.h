// NormalizedRow: one row of a float weight, scaled by a power of two so that its largest magnitude
// is in [1, 2). Scaling is exact, so quantising it is the same as quantising the row itself, but
// nothing on the way overflows or becomes subnormal, whatever range the row has.
// Reused from row to row by one thread.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/core/tensor.h"
#include "kernels/quant/group_fit.h"

namespace intermix {

// Rows whose largest magnitude is below this count as zero, as activation rows do: their scales
// could not be normal floats.
inline constexpr float kSmallestRowMax = 0x1p-100f;

struct NormalizedRow {
  int64_t k = 0;
  int64_t group_size = 0;
  CodeRange range{};
  int exponent = 0;           // the row is values * 2^exponent
  std::vector<float> values;  // [K], padded with zeros to a multiple of kGroupLanes
  std::vector<float> scales;  // [groups] max |w| / 7 (or 127), normal floats; 0 for a zero group

  int64_t num_groups() const { return k / group_size; }
  // A group is padded only where it is the whole row.
  int64_t padded_group_size() const { return static_cast<int64_t>(values.size()) / num_groups(); }
  Groups groups() const { return {values.data(), num_groups(), padded_group_size(), range}; }
  Groups group(int64_t j) const {
    return {values.data() + j * padded_group_size(), 1, padded_group_size(), range};
  }
  float largest_scale() const;  // 0 for a zero row
};

// Fills `row` from row `n` of `weight` [N, K] (float32, bfloat16 or float16) in groups of
// `group_size`, which divides K and is a multiple of kGroupLanes or K itself.
// False where the row holds a NaN or infinity.
bool NormalizeRow(const Tensor& weight, int64_t n, int64_t group_size, int bits,
                  NormalizedRow& row);

// Shrinks each group's scale to the one, among fractions of it down to 5/8, whose codes have the
// least squared error.
void SearchClip(NormalizedRow& row);

// Row `n` of a float32, bfloat16 or float16 tensor, widened: out [K].
void WidenRow(const Tensor& weight, int64_t n, float* out);

}  // namespace intermix
