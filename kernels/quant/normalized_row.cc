#include "kernels/quant/normalized_row.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace intermix {
namespace {

// 2^exponent in two factors, as one alone may be beyond float.
struct PowerOfTwo {
  explicit PowerOfTwo(int exponent)
      : first(std::ldexp(1.0f, exponent / 2)), second(std::ldexp(1.0f, exponent - exponent / 2)) {}
  float operator*(float x) const { return (x * first) * second; }
  float first;
  float second;
};

// Asks for the next row on the way: the processor's own prefetchers stop where a page ends.
void WidenBFloat16(const BFloat16* from, int64_t k, float* out) {
  constexpr int64_t kLine = 32;
  int64_t i = 0;
  for (; i + kLine <= k; i += kLine) {
    __builtin_prefetch(from + i + k);
    for (int64_t j = i; j < i + kLine; ++j) out[j] = static_cast<float>(from[j]);
  }
  for (; i < k; ++i) out[i] = static_cast<float>(from[i]);
}

}  // namespace

void WidenRow(const Tensor& weight, int64_t n, float* out) {
  const int64_t k = weight.cols();
  if (weight.dtype() == DType::kF32) {
    std::copy_n(weight.row<float>(n), k, out);
  } else if (weight.dtype() == DType::kBF16) {
    WidenBFloat16(weight.row<BFloat16>(n), k, out);
  } else {
    CHECK(weight.dtype() == DType::kF16) << weight.ToString();
    const uint16_t* from = static_cast<const uint16_t*>(weight.raw()) + n * weight.stride(0);
    for (int64_t i = 0; i < k; ++i) out[i] = HalfToFloat(from[i]);
  }
}

float NormalizedRow::largest_scale() const {
  return scales.empty() ? 0.0f : *std::max_element(scales.begin(), scales.end());
}

bool NormalizeRow(const Tensor& weight, int64_t n, int64_t group_size, int bits,
                  NormalizedRow& row) {
  row.k = weight.cols();
  row.group_size = group_size;
  row.range = RangeOf(bits);
  row.exponent = 0;
  row.values.resize((row.k + kGroupLanes - 1) / kGroupLanes * kGroupLanes);
  row.scales.resize(row.num_groups());
  WidenRow(weight, n, row.values.data());
  std::fill(row.values.begin() + row.k, row.values.end(), 0.0f);
  GroupMaxima(row.groups(), row.scales.data());
  float max = 0.0f;
  for (const float scale : row.scales) {
    if (!(scale <= std::numeric_limits<float>::max())) return false;
    max = std::max(max, scale);
  }
  if (max < kSmallestRowMax) {
    std::fill(row.scales.begin(), row.scales.end(), 0.0f);
    return true;
  }
  row.exponent = std::ilogb(max);
  const PowerOfTwo factor(-row.exponent);
  for (float& x : row.values) x = factor * x;
  for (float& scale : row.scales) {
    if (scale == 0.0f) continue;
    scale = std::max((factor * scale) / row.range.high, std::numeric_limits<float>::min());
  }
  return true;
}

void SearchClip(NormalizedRow& row) {
  constexpr int kSteps = 12;  // of 1/32
  for (int64_t j = 0; j < row.num_groups(); ++j) {
    const float full = row.scales[j];
    if (full <= std::numeric_limits<float>::min() * 2.0f) continue;
    double least = std::numeric_limits<double>::infinity();
    for (int step = 0; step <= kSteps; ++step) {
      const float scale = full * (1.0f - static_cast<float>(step) / 32.0f);
      const double error = GroupsError(row.group(j), &scale);
      if (error >= least) continue;
      least = error;
      row.scales[j] = scale;
    }
  }
}

}  // namespace intermix
