// Row quantisation, the norm that feeds it, and what joins the residual before.
#include <cmath>
#include <limits>

#include "kernels/core/lane_math.h"
#include "kernels/reference/reference_backend.h"

namespace intermix {
namespace {

constexpr float kSmallestAmax = 0x1p-100f;  // below it a row counts as zero

template <typename T>
float AbsMax(const T* x, int64_t count) {
  float amax = 0.0f;
  for (int64_t k = 0; k < count; ++k) {
    const float magnitude = std::fabs(static_cast<float>(x[k]));
    if (!(magnitude <= std::numeric_limits<float>::max())) {
      return std::numeric_limits<float>::infinity();
    }
    amax = magnitude > amax ? magnitude : amax;
  }
  return amax;
}

float AbsMaxOf(const Tensor& x, int64_t m) {
  return x.dtype() == DType::kBF16 ? AbsMax(x.row<BFloat16>(m), x.cols())
                                   : AbsMax(x.row<float>(m), x.cols());
}

// Row m of `out` from x [K] with the amax of the full row.
template <typename T>
void QuantizeRow(const T* x, float amax, const Activations& out, int64_t m) {
  const int64_t count = out.values.cols();
  if (!out.quantized()) {
    float* values = out.values.row<float>(m);
    for (int64_t k = 0; k < count; ++k) values[k] = static_cast<float>(x[k]);
    return;
  }
  int8_t* codes = out.values.row<int8_t>(m);
  float& scale = out.scales.data<float>()[m];
  const bool finite = amax <= std::numeric_limits<float>::max();
  if (!finite || amax < kSmallestAmax) {
    scale = finite ? 0.0f : std::numeric_limits<float>::quiet_NaN();
    for (int64_t k = 0; k < count; ++k) codes[k] = 0;
    return;
  }
  scale = amax / 127.0f;
  const float inverse = 127.0f / amax;
  for (int64_t k = 0; k < count; ++k) {
    codes[k] = static_cast<int8_t>(RoundToInt(static_cast<float>(x[k]) * inverse));
  }
}

// What joins element k of token m's residual.
float DeltaAt(const Delta& delta, int64_t m, int64_t k) {
  if (delta.weights.empty()) return static_cast<float>(delta.rows.row<BFloat16>(m)[k]);
  const int64_t top_k = delta.weights.cols();
  const float* weight = delta.weights.row<float>(m);
  float sum = 0.0f;
  for (int64_t slot = 0; slot < top_k; ++slot) {
    const int64_t row =
        delta.row_of.empty() ? m * top_k + slot : delta.row_of.row<int32_t>(m)[slot];
    const float term = weight[slot] * static_cast<float>(delta.rows.row<BFloat16>(row)[k]);
    sum = slot == 0 ? term : sum + term;
  }
  return sum;
}

}  // namespace

void ReferenceBackend::RowAbsMax(const Tensor& x, Tensor amax) {
  CHECK_EQ(amax.rows(), x.rows());
  for (int64_t m = 0; m < x.rows(); ++m) amax.data<float>()[m] = AbsMaxOf(x, m);
}

void ReferenceBackend::QuantizeRows(const Tensor& x, const Tensor& amax, const Activations& out) {
  CHECK_EQ(out.tokens(), x.rows());
  CHECK_EQ(out.values.cols(), x.cols());
  for (int64_t m = 0; m < x.rows(); ++m) {
    const float row_amax = !out.quantized() ? 0.0f
                           : amax.empty()   ? AbsMaxOf(x, m)
                                            : amax.data<float>()[m];
    if (x.dtype() == DType::kBF16) {
      QuantizeRow(x.row<BFloat16>(m), row_amax, out, m);
    } else {
      QuantizeRow(x.row<float>(m), row_amax, out, m);
    }
  }
}

void ReferenceBackend::RmsNorm(const Tensor& x, const Norm& norm, const NormedRows& out) {
  const int64_t count = x.cols();
  const Activations& activations = out.activations;
  CHECK_EQ(norm.weight.cols(), count);
  CHECK_EQ(out.values.cols(), count);
  CHECK_EQ(out.values.rows(), x.rows());
  const float* weight = norm.weight.data<float>();
  for (int64_t m = 0; m < x.rows(); ++m) {
    const float* row = x.row<float>(m);
    float* result = out.values.row<float>(m);
    const float mean_square = LaneDot(row, row, count) / static_cast<float>(count);
    const float inverse = 1.0f / std::sqrt(mean_square + norm.eps);
    for (int64_t k = 0; k < count; ++k) result[k] = (row[k] * inverse) * weight[k];
    QuantizeRow(result, activations.quantized() ? AbsMax(result, count) : 0.0f, activations, m);
  }
}

void ReferenceBackend::AddRmsNorm(const Delta& delta, Tensor residual, const Norm& norm,
                                  const NormedRows& out) {
  CHECK_EQ(delta.rows.cols(), residual.cols());
  for (int64_t m = 0; m < residual.rows(); ++m) {
    float* to = residual.row<float>(m);
    for (int64_t k = 0; k < residual.cols(); ++k) to[k] = to[k] + DeltaAt(delta, m, k);
  }
  RmsNorm(residual, norm, out);
}

}  // namespace intermix
