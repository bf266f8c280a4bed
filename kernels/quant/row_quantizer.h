// Integer scales and codes of one normalised row, folded or wide (numerics.md, "Weights").
// Pure functions, so that a caller may run rows in parallel.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/quant/normalized_row.h"

namespace intermix {

inline constexpr double kInt32Max = 2147483647.0;

// The integer scales of one row and what they cost.
struct RowScales {
  std::vector<int16_t> integer;  // [groups] I
  float unit = 0.0f;           // 1 / A: a group's scale is I * unit, in the row's normalised units
  double squared_error = 0.0;  // in normalised units
  int64_t product_sum = 0;     // sum over groups of |I| * sum of |q|

  // The overflow certificate.
  bool certified() const { return product_sum <= kInt32Max / 127; }
};

// Folded: I in 1..15 (0 for a zero group), A among 15/max s .. 8/max s by squared error.
RowScales FoldedScales(const NormalizedRow& row);

// Wide with the channel amplifier: A the largest power of two for which every I fits int16 and the
// certificate holds. A row of one group has I = 1, which loses nothing.
// Not certified() only where no scale fits, that is where K is beyond 133,000 at 8 bits.
RowScales WideScales(const NormalizedRow& row);

// Wide with A = 2^log2_amplifier (of the row itself, not of its normalised form). The largest I is
// returned in `largest`; where it is beyond int16, there are no other results.
RowScales FixedScales(const NormalizedRow& row, int log2_amplifier, double& largest);

// The codes under group scales I * unit.
//   codes  [K], padded as row.values
void RoundRow(const NormalizedRow& row, const RowScales& scales, std::vector<int8_t>& codes);

}  // namespace intermix
