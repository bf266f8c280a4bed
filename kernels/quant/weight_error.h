// What quantising a weight cost. Pure functions; thread-safe.
#pragma once

#include "kernels/quant/weight.h"

namespace intermix {

// Sums over a tensor, in double.
struct WeightError {
  double squared_error = 0.0;  // of (w - dequantised)^2
  double squared_norm = 0.0;   // of w^2
};

// `weight` is the float original of `quantized`.
WeightError ErrorOf(const Tensor& weight, const QuantizedWeight& quantized);

}  // namespace intermix
