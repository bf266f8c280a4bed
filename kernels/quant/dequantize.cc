// What the codes stand for, and how far that is from the float weight.
#include <vector>

#include "kernels/quant/integer_scale.h"
#include "kernels/quant/normalized_row.h"

namespace intermix {
namespace {

// Row n of the float weight: out [K].
void DequantizeRow(const QuantizedWeight& w, int64_t n, float* out) {
  if (w.format.scheme == Scheme::kNone) {
    WidenRow(w.codes, n, out);
    return;
  }
  const int64_t g = w.format.group_size;
  for (int64_t k = 0; k < w.k; ++k) {
    const int code = CodeAt(w, n, k);
    if (w.format.scheme == Scheme::kInteger) {
      const int product = code * w.group_scales.row<int16_t>(n)[k / g];
      out[k] = static_cast<float>(product) * w.channel_scales.data<float>()[n];
    } else {
      out[k] = static_cast<float>(code) * w.group_scales.row<float>(n)[k / g];
    }
  }
}

}  // namespace

OwnedTensor Dequantize(const QuantizedWeight& weight) {
  OwnedTensor result = OwnedTensor::Host(DType::kF32, {weight.n, weight.k});
  for (int64_t n = 0; n < weight.n; ++n) DequantizeRow(weight, n, result.view.row<float>(n));
  return result;
}

double SquaredError(const Tensor& weight, const QuantizedWeight& quantized) {
  CHECK_EQ(weight.rows(), quantized.n);
  CHECK_EQ(weight.cols(), quantized.k);
  std::vector<float> original(quantized.k);
  std::vector<float> restored(quantized.k);
  double sum = 0.0;
  for (int64_t n = 0; n < quantized.n; ++n) {
    WidenRow(weight, n, original.data());
    DequantizeRow(quantized, n, restored.data());
    for (int64_t k = 0; k < quantized.k; ++k) {
      const double difference = static_cast<double>(original[k]) - static_cast<double>(restored[k]);
      sum += difference * difference;
    }
  }
  return sum;
}

}  // namespace intermix
