// What the codes stand for, and how far that is from the float weight.
#include <cstring>
#include <vector>

#include "kernels/quant/integer_scale.h"
#include "kernels/quant/normalized_row.h"
#include "kernels/quant/weight_error.h"

namespace intermix {
namespace {

// Row n of the float weight: out [K].  codes [K] is scratch.
void DequantizeRow(const QuantizedWeight& w, int64_t n, std::vector<int8_t>& codes, float* out) {
  if (w.format.scheme == Scheme::kNone) {
    WidenRow(w.codes, n, out);
    return;
  }
  codes.resize(w.k);
  UnpackCodes(w, n, codes.data());
  const int64_t g = w.format.group_size;
  for (int64_t j = 0; j < w.num_groups(); ++j) {
    const int8_t* q = codes.data() + j * g;
    float* group = out + j * g;
    if (w.format.scheme == Scheme::kInteger) {
      // A code of 8 bits times a scale of 16 is exact in float.
      const auto scale = static_cast<float>(w.group_scales.row<int16_t>(n)[j]);
      const float channel_scale = w.channel_scales.data<float>()[n];
      for (int64_t k = 0; k < g; ++k) {
        group[k] = (static_cast<float>(q[k]) * scale) * channel_scale;
      }
    } else {
      const float scale = w.group_scales.row<float>(n)[j];
      for (int64_t k = 0; k < g; ++k) group[k] = static_cast<float>(q[k]) * scale;
    }
  }
}

// Adds a row to `sums`, eight lanes in double, inlined into one function for each instruction set.
struct ErrorLoops {
  [[gnu::always_inline]] static inline void Add(const std::vector<float>& original,
                                                const std::vector<float>& restored,
                                                WeightError& sums) {
    using Floats [[gnu::vector_size(32)]] = float;
    using Doubles [[gnu::vector_size(64)]] = double;
    constexpr size_t kLanes = 8;
    Doubles errors{};
    Doubles norms{};
    size_t k = 0;
    for (; k + kLanes <= original.size(); k += kLanes) {
      Floats x;
      Floats y;
      std::memcpy(&x, original.data() + k, sizeof x);
      std::memcpy(&y, restored.data() + k, sizeof y);
      const Doubles w = __builtin_convertvector(x, Doubles);
      const Doubles difference = w - __builtin_convertvector(y, Doubles);
      errors += difference * difference;
      norms += w * w;
    }
    for (; k < original.size(); ++k) {
      const auto w = static_cast<double>(original[k]);
      const double difference = w - static_cast<double>(restored[k]);
      sums.squared_error += difference * difference;
      sums.squared_norm += w * w;
    }
    for (size_t l = 0; l < kLanes; ++l) {
      sums.squared_error += errors[l];
      sums.squared_norm += norms[l];
    }
  }
};

[[gnu::target("avx512f")]] void AddErrorAvx512(const std::vector<float>& original,
                                               const std::vector<float>& restored,
                                               WeightError& sums) {
  ErrorLoops::Add(original, restored, sums);
}

void AddRowError(const std::vector<float>& original, const std::vector<float>& restored,
                 WeightError& sums) {
  if (__builtin_cpu_supports("avx512f")) return AddErrorAvx512(original, restored, sums);
  ErrorLoops::Add(original, restored, sums);
}

}  // namespace

OwnedTensor Dequantize(const QuantizedWeight& weight) {
  OwnedTensor result = OwnedTensor::Host(DType::kF32, {weight.n, weight.k});
  std::vector<int8_t> codes;
  for (int64_t n = 0; n < weight.n; ++n) {
    DequantizeRow(weight, n, codes, result.view.row<float>(n));
  }
  return result;
}

WeightError ErrorOf(const Tensor& weight, const QuantizedWeight& quantized) {
  CHECK_EQ(weight.rows(), quantized.n);
  CHECK_EQ(weight.cols(), quantized.k);
  std::vector<float> original(quantized.k);
  std::vector<float> restored(quantized.k);
  std::vector<int8_t> codes;
  WeightError sums;
  for (int64_t n = 0; n < quantized.n; ++n) {
    WidenRow(weight, n, original.data());
    DequantizeRow(quantized, n, codes, restored.data());
    AddRowError(original, restored, sums);
  }
  return sums;
}

double SquaredError(const Tensor& weight, const QuantizedWeight& quantized) {
  return ErrorOf(weight, quantized).squared_error;
}

}  // namespace intermix
