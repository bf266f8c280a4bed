#include "runtime/bench/random_weight.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <utility>

#include "kernels/core/check.h"

namespace intermix {
namespace {

uint64_t SplitMix(uint64_t counter) {
  uint64_t z = counter * 0x9E3779B97F4A7C15u;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

// The sum of four uniform 16-bit numbers, centred, of variance 1: nearly Gaussian.
float NearlyGaussian(uint64_t bits) {
  const auto sum = static_cast<double>((bits & 0xFFFFu) + ((bits >> 16) & 0xFFFFu) +
                                       ((bits >> 32) & 0xFFFFu) + (bits >> 48));
  return static_cast<float>((sum / 65536.0 - 2.0) * std::sqrt(3.0));
}

struct Storage {
  OwnedTensor codes;
  OwnedTensor group_scales;
  OwnedTensor channel_scales;
};

// The largest integer scale that every group may have, whatever the codes.
int64_t LargestScale(const WeightFormat& format, int64_t k) {
  if (format.scale_width == ScaleWidth::kFolded) return 15;
  const int64_t largest_code = format.bits == 4 ? 8 : 128;
  const int64_t limit = std::numeric_limits<int32_t>::max() / (127 * largest_code * k);
  CHECK_GE(limit, 1) << "K = " << k;
  return std::min<int64_t>(limit, std::numeric_limits<int16_t>::max());
}

// Codes of two's complement are -0.5 on average. With one sign for all rows, what tokens have in
// common would grow from layer to layer, until all choose the same experts.
double SignOfRow(uint64_t seed, int64_t n) {
  return SplitMix(~seed + static_cast<uint64_t>(n)) % 2 == 0 ? 1.0 : -1.0;
}

}  // namespace

void FillRandomBits(uint64_t seed, uint64_t* words, size_t count) {
  const uint64_t first = SplitMix(seed);
  for (size_t i = 0; i < count; ++i) words[i] = SplitMix(first + i);
}

WeightFormat FormatOf(const QuantSpec& spec, int bits, int64_t k) {
  const bool folded = bits == 4 && spec.scales != ScaleChoice::kWide &&
                      spec.amplifier.kind == Amplifier::Kind::kChannel;
  return {.scheme = spec.scheme,
          .scale_width = folded ? ScaleWidth::kFolded : ScaleWidth::kWide,
          .bits = bits,
          .group_size = spec.group_size == 0 || spec.scheme == Scheme::kNone ? k : spec.group_size};
}

OwnedTensor RandomValues(DType dtype, int64_t rows, int64_t cols, double stddev, uint64_t seed) {
  OwnedTensor tensor =
      rows == 1 ? OwnedTensor::Host(dtype, {cols}) : OwnedTensor::Host(dtype, {rows, cols});
  const uint64_t first = SplitMix(seed);
  for (int64_t i = 0; i < rows * cols; ++i) {
    const float value =
        NearlyGaussian(SplitMix(first + static_cast<uint64_t>(i))) * static_cast<float>(stddev);
    if (dtype == DType::kF32) {
      static_cast<float*>(tensor.view.raw())[i] = value;
    } else {
      static_cast<BFloat16*>(tensor.view.raw())[i] = BFloat16(value);
    }
  }
  return tensor;
}

QuantizedWeight MakeRandomWeight(const WeightFormat& format, int64_t n, int64_t k, uint64_t seed) {
  const double stddev = 1.0 / std::sqrt(static_cast<double>(k));
  auto storage = std::make_shared<Storage>();
  QuantizedWeight weight{.format = format, .n = n, .k = k};
  if (format.scheme == Scheme::kNone) {
    storage->codes = RandomValues(DType::kBF16, n, k, stddev, seed);
    weight.codes = storage->codes.view.Reshape({n, k});
    weight.owner = std::move(storage);
    return weight;
  }
  const bool integer = format.scheme == Scheme::kInteger;
  storage->codes = format.bits == 8 ? OwnedTensor::Host(DType::kI8, {n, k})
                                    : OwnedTensor::Host(DType::kU8, {n, k / 2});
  const Tensor& codes = storage->codes.view;
  FillRandomBits(seed, static_cast<uint64_t*>(codes.raw()), static_cast<size_t>(codes.bytes()) / 8);
  const int64_t groups = k / format.group_size;
  const double code_stddev = format.bits == 4 ? 4.6 : 74.0;
  storage->group_scales = OwnedTensor::Host(integer ? DType::kI16 : DType::kF32, {n, groups});
  weight.codes = codes;
  weight.group_scales = storage->group_scales.view;
  if (integer) {
    const int64_t largest = LargestScale(format, k);
    auto* scales = static_cast<int16_t*>(weight.group_scales.raw());
    for (int64_t i = 0; i < n * groups; ++i) {
      const uint64_t bits =
          SplitMix(seed + static_cast<uint64_t>(i)) % static_cast<uint64_t>(largest);
      scales[i] = static_cast<int16_t>(1 + static_cast<int64_t>(bits));
    }
    storage->channel_scales = OwnedTensor::Host(DType::kF32, {n});
    weight.channel_scales = storage->channel_scales.view;
    const double typical = code_stddev * 0.6 * static_cast<double>(largest);
    auto* channels = static_cast<float*>(weight.channel_scales.raw());
    for (int64_t i = 0; i < n; ++i) {
      channels[i] = static_cast<float>(SignOfRow(seed, i) * stddev / typical);
    }
  } else {
    auto* scales = static_cast<float*>(weight.group_scales.raw());
    for (int64_t i = 0; i < n; ++i) {
      std::fill_n(scales + i * groups, groups,
                  static_cast<float>(SignOfRow(seed, i) * stddev / code_stddev));
    }
  }
  weight.owner = std::move(storage);
  return weight;
}

}  // namespace intermix
