// The one way from a float tensor to quantised rows, for quantising while loading and for
// quantising to disk: whoever asks for a row, in whatever slice and on however many threads, gets
// the same bits. Thread-safe.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "comm/sharding.h"
#include "kernels/quant/integer_scale.h"
#include "kernels/quant/weight.h"
#include "kernels/quant/weight_error.h"
#include "runtime/checkpoint/tensor_files.h"

namespace intermix {

// Quantises `weight` [n, k] (float32, bfloat16, float16) under `spec`, in chunks of rows on several
// threads. The same bits as Quantize but for the rounding of the sum by which kAuto decides.
// Errors: those of Quantize; the first chunk's.
absl::StatusOr<QuantizedWeight> QuantizeTensor(const Tensor& weight, const QuantSpec& spec,
                                               const std::string& name);

// Which rows of which tensor to quantise.
struct QuantizeRequest {
  std::string tensor;  // "model.layers.0.self_attn.q_proj.weight"
  int64_t n = 0;       // its whole shape
  int64_t k = 0;
  Slice rows;  // may go beyond n: zero rows
};

// Quantised rows `request.rows`. Reads only these rows, but for a spec whose choices are made per
// tensor (scales auto, amplifier heuristic), which needs all of them.
absl::StatusOr<QuantizedWeight> QuantizeRows(const TensorFiles& files,
                                             const QuantizeRequest& request, const QuantSpec& spec);

// VerifyCertificate on several threads.
absl::Status VerifyRows(const QuantizedWeight& weight, const std::string& name);

// ErrorOf on several threads.
WeightError MeasureError(const Tensor& weight, const QuantizedWeight& quantized);

}  // namespace intermix
