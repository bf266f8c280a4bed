// What the codes stand for, and how far that is from the float weight.
#include <vector>

#include "kernels/quant/integer_scale.h"
#include "kernels/quant/normalized_row.h"

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
      const int scale = w.group_scales.row<int16_t>(n)[j];
      const float channel_scale = w.channel_scales.data<float>()[n];
      for (int64_t k = 0; k < g; ++k) group[k] = static_cast<float>(q[k] * scale) * channel_scale;
    } else {
      const float scale = w.group_scales.row<float>(n)[j];
      for (int64_t k = 0; k < g; ++k) group[k] = static_cast<float>(q[k]) * scale;
    }
  }
}

// sum of (a - b)^2 in double; four sums, so that one addition need not wait for the last.
double SquaredDistance(const std::vector<float>& a, const std::vector<float>& b) {
  double sums[4] = {};
  for (size_t k = 0; k < a.size(); ++k) {
    const double difference = static_cast<double>(a[k]) - static_cast<double>(b[k]);
    sums[k % 4] += difference * difference;
  }
  return (sums[0] + sums[1]) + (sums[2] + sums[3]);
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

double SquaredError(const Tensor& weight, const QuantizedWeight& quantized) {
  CHECK_EQ(weight.rows(), quantized.n);
  CHECK_EQ(weight.cols(), quantized.k);
  std::vector<float> original(quantized.k);
  std::vector<float> restored(quantized.k);
  std::vector<int8_t> codes;
  double sum = 0.0;
  for (int64_t n = 0; n < quantized.n; ++n) {
    WidenRow(weight, n, original.data());
    DequantizeRow(quantized, n, codes, restored.data());
    sum += SquaredDistance(original, restored);
  }
  return sum;
}

}  // namespace intermix
