#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>

#include "tests/testing/random.h"

namespace intermix {
namespace {

// Float to float16 bits: nearest would do, but truncation of the mantissa is simpler and as good
// for test data. Values outside the normal float16 range become zero.
uint16_t HalfBits(float value) {
  const uint32_t u = std::bit_cast<uint32_t>(value);
  const uint32_t sign = (u >> 16) & 0x8000u;
  const int exponent = static_cast<int>((u >> 23) & 0xFFu) - 127 + 15;
  if (exponent <= 0 || exponent >= 31) return static_cast<uint16_t>(sign);
  return static_cast<uint16_t>(sign | static_cast<uint32_t>(exponent) << 10 | ((u >> 13) & 0x3FFu));
}

}  // namespace

int64_t Random::Int(int64_t low, int64_t high) {
  return low + static_cast<int64_t>(engine_() % static_cast<uint64_t>(high - low + 1));
}

double Random::Uniform() { return static_cast<double>(engine_() >> 11) * 0x1p-53; }

double Random::Gaussian() {
  const double radius = std::sqrt(-2.0 * std::log(1.0 - Uniform()));
  return radius * std::cos(2.0 * std::numbers::pi * Uniform());
}

double Random::StudentT4() {
  const double normal = Gaussian();
  // Chi-squared with 4 degrees of freedom is -2 log of a product of two uniforms.
  const double chi2 = -2.0 * std::log((1.0 - Uniform()) * (1.0 - Uniform()));
  return normal / std::sqrt(chi2 / 4.0);
}

OwnedTensor RandomTensor(DType dtype, std::initializer_list<int64_t> shape, uint64_t seed,
                         double stddev) {
  Random random(seed);
  OwnedTensor tensor = OwnedTensor::Host(dtype, shape);
  for (int64_t i = 0; i < tensor.view.num_elements(); ++i) {
    const float value = static_cast<float>(random.Gaussian() * stddev);
    if (dtype == DType::kF32) {
      tensor.view.data<float>()[i] = value;
    } else if (dtype == DType::kBF16) {
      tensor.view.data<BFloat16>()[i] = BFloat16(value);
    } else {
      CHECK(dtype == DType::kF16) << Name(dtype);
      static_cast<uint16_t*>(tensor.view.raw())[i] = HalfBits(value);
    }
  }
  return tensor;
}

OwnedTensor RandomInts(std::initializer_list<int64_t> shape, int32_t low, int32_t high,
                       uint64_t seed) {
  Random random(seed);
  OwnedTensor tensor = OwnedTensor::Host(DType::kI32, shape);
  for (int64_t i = 0; i < tensor.view.num_elements(); ++i) {
    tensor.view.data<int32_t>()[i] = static_cast<int32_t>(random.Int(low, high));
  }
  return tensor;
}

void PutValue(const Tensor& x, int64_t row, int64_t col, float value) {
  if (x.dtype() == DType::kBF16) {
    x.row<BFloat16>(row)[col] = BFloat16(value);
  } else {
    x.row<float>(row)[col] = value;
  }
}

OwnedTensor HostileRows(DType dtype, int64_t tokens, int64_t width, uint64_t seed) {
  constexpr float kInf = std::numeric_limits<float>::infinity();
  OwnedTensor x = RandomTensor(dtype, {tokens, width}, seed, 3.0);
  for (int64_t m = 3; m < std::min<int64_t>(tokens, 10); ++m) {
    for (int64_t k = 0; k < width && (m == 3 || m == 8 || m == 9); ++k) {
      const float half = static_cast<float>(k % 255 - 127) + 0.5f;
      PutValue(x.view, m, k,
               m == 3   ? 0.0f
               : m == 8 ? 1e-39f * static_cast<float>(k)
                        : half / 127.5f);
    }
    if (m == 4) PutValue(x.view, m, width / 2, std::nanf(""));
    if (m == 5) PutValue(x.view, m, width - 1, kInf);
    if (m == 6) PutValue(x.view, m, 0, -kInf);
    if (m == 7) PutValue(x.view, m, width - 1, 3e38f);
  }
  return x;
}

OwnedTensor RowsWithTies(int64_t rows, int64_t width, uint64_t seed) {
  constexpr float kInf = std::numeric_limits<float>::infinity();
  Random random(seed);
  OwnedTensor x = OwnedTensor::Host(DType::kF32, {rows, width});
  const auto value = [&](int64_t kind, int64_t column) {
    const float gaussian = static_cast<float>(random.Gaussian());
    const float few = static_cast<float>(random.Int(-2, 2)) * (column % 2 == 0 ? 1.0f : -1.0f);
    switch (kind) {
      case 0:
        return gaussian;
      case 1:
        return few;
      case 2:
        return static_cast<float>(column);
      case 3:
        return static_cast<float>(-column);
      case 4:
      case 5:
        return kind == 5 && column == width / 2 ? gaussian : -kInf;
      case 6:
        return random.Int(0, 40) != 0 ? gaussian : few == 0.0f ? std::nanf("") : few * kInf;
      default:
        return random.Int(0, 2) != 0 ? std::nanf("") : gaussian;
    }
  };
  for (int64_t m = 0; m < rows; ++m) {
    for (int64_t k = 0; k < width; ++k) x.view.row<float>(m)[k] = value(m % 8, k);
  }
  return x;
}

OwnedActivations RandomActivations(Scheme scheme, int64_t tokens, int64_t k, uint64_t seed,
                                   Content content) {
  if (scheme == Scheme::kNone) {
    return {.values = RandomTensor(DType::kF32, {tokens, k}, seed), .scales = {}};
  }
  Random random(seed);
  OwnedActivations rows{.values = OwnedTensor::Host(DType::kI8, {tokens, k}),
                        .scales = OwnedTensor::Host(DType::kF32, {tokens})};
  for (int64_t m = 0; m < tokens; ++m) {
    const bool is_nan = content == Content::kExtreme && m % 4 == 3;
    rows.scales.view.data<float>()[m] =
        is_nan ? std::nanf("") : static_cast<float>(0.001 + 0.05 * random.Uniform());
    for (int64_t i = 0; i < k; ++i) {
      int64_t code = random.Int(-127, 127);
      if (content == Content::kExtreme) {
        const int64_t any = random.Int(0, 1) == 0 ? -127 : 127;
        code = is_nan ? 0 : m % 4 == 0 ? -127 : m % 4 == 1 ? 127 : any;
      }
      rows.values.view.row<int8_t>(m)[i] = static_cast<int8_t>(code);
    }
  }
  return rows;
}

}  // namespace intermix
