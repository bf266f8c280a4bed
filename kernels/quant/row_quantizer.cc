#include "kernels/quant/row_quantizer.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/core/lane_math.h"

namespace intermix {
namespace {

constexpr int kLargestFolded = 15;
constexpr int kSmallestFoldedCandidate = 8;
constexpr float kLargestWide = 32767.0f;

// I[j] = clamp(rne(s[j] * amplifier), 1, largest), 0 for a zero group.
std::vector<int16_t> RoundScales(const NormalizedRow& row, float amplifier, float largest) {
  std::vector<int16_t> integer(row.num_groups(), 0);
  for (int64_t j = 0; j < row.num_groups(); ++j) {
    if (row.scales[j] == 0.0f) continue;
    const float scaled = std::clamp(row.scales[j] * amplifier, 1.0f, largest);
    integer[j] = static_cast<int16_t>(RoundToInt(scaled));
  }
  return integer;
}

// Group scales as floats; 1 for a zero group, whose values are all zero.
std::vector<float> FloatScales(const RowScales& scales) {
  std::vector<float> result(scales.integer.size());
  for (size_t j = 0; j < result.size(); ++j) {
    result[j] = scales.integer[j] == 0 ? 1.0f : static_cast<float>(scales.integer[j]) * scales.unit;
  }
  return result;
}

// Fills in what the scales cost.
void Fit(const NormalizedRow& row, RowScales& scales) {
  const std::vector<float> multipliers(scales.integer.begin(), scales.integer.end());
  const GroupsFit fit = FitGroups(row.groups(), FloatScales(scales).data(), multipliers.data());
  scales.squared_error = fit.squared_error;
  scales.product_sum = fit.product_sum;
}

RowScales PowerOfTwoScales(const NormalizedRow& row, int log2_amplifier) {
  RowScales scales;
  scales.integer = RoundScales(row, std::ldexp(1.0f, log2_amplifier), kLargestWide);
  scales.unit = std::ldexp(1.0f, -log2_amplifier);
  Fit(row, scales);
  return scales;
}

RowScales ZeroScales(const NormalizedRow& row) {
  RowScales scales;
  scales.integer.assign(row.num_groups(), 0);
  return scales;
}

}  // namespace

RowScales FoldedScales(const NormalizedRow& row) {
  const float max = row.largest_scale();
  if (max == 0.0f) return ZeroScales(row);
  RowScales best;
  for (int top = kLargestFolded; top >= kSmallestFoldedCandidate; --top) {
    RowScales scales;
    scales.unit = max / static_cast<float>(top);
    scales.integer = RoundScales(row, static_cast<float>(top) / max, kLargestFolded);
    scales.squared_error = GroupsError(row.groups(), FloatScales(scales).data());
    if (best.integer.empty() || scales.squared_error < best.squared_error) best = std::move(scales);
    if (row.num_groups() == 1) break;  // every candidate gives the same scale
  }
  Fit(row, best);
  return best;
}

RowScales WideScales(const NormalizedRow& row) {
  const float max = row.largest_scale();
  if (max == 0.0f) return ZeroScales(row);
  if (row.num_groups() == 1) {
    RowScales scales;
    scales.integer = {1};
    scales.unit = max;
    Fit(row, scales);
    return scales;
  }
  int log2_amplifier = std::ilogb(kLargestWide / max);
  while (true) {
    RowScales scales = PowerOfTwoScales(row, log2_amplifier);
    const bool all_ones = *std::max_element(scales.integer.begin(), scales.integer.end()) <= 1;
    if (scales.certified() || all_ones) return scales;
    // Halving A about halves the sum, so most of the way is one jump.
    const double excess = 127.0 * scales.product_sum / kInt32Max;
    log2_amplifier -= std::max(1, static_cast<int>(std::log2(excess)));
  }
}

RowScales FixedScales(const NormalizedRow& row, int log2_amplifier, double& largest) {
  const float max = row.largest_scale();
  largest = 0.0;
  if (max == 0.0f) return ZeroScales(row);
  largest = std::rint(std::ldexp(static_cast<double>(max), row.exponent + log2_amplifier));
  if (largest > static_cast<double>(kLargestWide)) return {};
  return PowerOfTwoScales(row, row.exponent + log2_amplifier);
}

void RoundRow(const NormalizedRow& row, const RowScales& scales, std::vector<int8_t>& codes) {
  codes.resize(row.values.size());
  RoundGroups(row.groups(), FloatScales(scales).data(), codes.data());
}

}  // namespace intermix
