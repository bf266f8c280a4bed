// ScaleCandidates: the folded and the wide form of some rows, from one pass over them, for callers
// that quantise a tensor in pieces and choose once for all of it. A plain value.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "kernels/quant/integer_scale.h"

namespace intermix {

struct ScaleCandidates {
  QuantizedWeight folded;
  QuantizedWeight wide;
  double folded_error = 0.0;      // squared, summed over the rows
  double wide_error = 0.0;        // likewise
  bool folded_certified = false;  // all rows of `folded` meet the overflow certificate
};

// Both forms of `weight` under `spec`, which asks for 4 bits, ScaleChoice::kAuto and the channel
// amplifier. Errors as for Quantize. Thread-safe.
absl::StatusOr<ScaleCandidates> QuantizeBothScales(const Tensor& weight, const QuantSpec& spec,
                                                   const std::string& name);

// Whether ScaleChoice::kAuto takes the folded form, given the sums over the whole tensor.
bool TakesFolded(double folded_error, double wide_error);

}  // namespace intermix
