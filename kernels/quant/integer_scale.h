// Quantising a float weight to integer codes with integer group scales, and the proof that no int32
// accumulator can overflow (numerics.md, "Weights"; Integer Scale, arXiv 2405.14597, section 3).
// Pure functions; thread-safe.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/core/buffer.h"
#include "kernels/quant/weight.h"

namespace intermix {

enum class ScaleChoice : uint8_t { kAuto, kFolded, kWide };

// How the wide scheme's amplifier A (float scale * A = integer scale) is chosen.
struct Amplifier {
  enum class Kind : uint8_t {
    kChannel,    // per row, the largest power of two that fits int16 and the certificate
    kHeuristic,  // the paper's: the smallest 2^n with min(s) * 2^n >= 1, one for the tensor
    kFixed,      // the paper's 1024, or any other power of two, one for the tensor
  };
  Kind kind = Kind::kChannel;
  int64_t value = 1024;  // for kFixed
};

// What the user asks for; --scheme, --bits, --group-size, --scales, --amplifier.
struct QuantSpec {
  Scheme scheme = Scheme::kInteger;
  int bits = 4;                             // 4 or 8
  int64_t group_size = 128;                 // 32, 64, 128, or 0 for the whole K
  ScaleChoice scales = ScaleChoice::kAuto;  // bits = 8 has only wide scales
  Amplifier amplifier;                      // wide scales only; anything but kChannel forces wide
  bool clip_search = false;  // shrink each group's range to minimise its squared error

  // INVALID_ARGUMENT with the offending option and the legal values.
  absl::Status Validate() const;
};

// kAuto takes the folded form where its squared error is at most this multiple of the wide one's.
inline constexpr double kFoldedTolerance = 1.01;

// Quantises `weight` [N, K] (float32, bfloat16 or float16) under `spec`. With kAuto the folded form
// is taken where its squared error over the tensor is within 1% of the wide one's.
// Scheme::kNone keeps float32 and bfloat16 as they are and widens float16 to float32.
//   INVALID_ARGUMENT: K is not a multiple of the group size (the sentence names one that divides),
//   the weight holds a NaN or infinity, or a fixed amplifier breaks the certificate or int16.
// `name` is used in messages only.
absl::StatusOr<QuantizedWeight> Quantize(const Tensor& weight, const QuantSpec& spec,
                                         const std::string& name);

// The overflow certificate, over the whole K of every row:
//   127 * sum_j |I[n, j]| * sum_{k in j} |q[n, k]|  <=  2^31 - 1
// and, for folded scales, I in 0..15 and |q * I| <= 120 (|q * I| <= 127 is what int8 needs).
//   FAILED_PRECONDITION naming `name`, the row and the sum. OK for schemes without integer scales.
absl::Status VerifyCertificate(const QuantizedWeight& weight, const std::string& name);

// The float weight that the codes stand for, q * I * c or q * s: [N, K] float32.
OwnedTensor Dequantize(const QuantizedWeight& weight);

// sum of (w - dequantised)^2 over the tensor, in double.
double SquaredError(const Tensor& weight, const QuantizedWeight& quantized);

}  // namespace intermix
