// The overflow certificate of a finished weight, read back from its packed codes.
#include <algorithm>
#include <cstdlib>
#include <limits>

#include "absl/strings/str_cat.h"
#include "kernels/quant/integer_scale.h"

namespace intermix {
namespace {

constexpr int64_t kInt32Max = std::numeric_limits<int32_t>::max();
constexpr int kLargestFoldedScale = 15;
constexpr int kLargestFoldedProduct = 120;

// sum of |q| and max |q| over some codes.
struct CodeMagnitudes {
  int64_t sum = 0;
  int max = 0;
};

CodeMagnitudes OfBytes(const int8_t* codes, int64_t count) {
  CodeMagnitudes result;
  for (int64_t k = 0; k < count; ++k) {
    const int magnitude = std::abs(int{codes[k]});
    result.sum += magnitude;
    result.max = std::max(result.max, magnitude);
  }
  return result;
}

// A nibble x of two's complement has magnitude min(x, 16 - x).
CodeMagnitudes OfNibbles(const uint8_t* bytes, int64_t count) {
  CodeMagnitudes result;
  for (int64_t i = 0; i < count; ++i) {
    const int low = bytes[i] & 0xF;
    const int high = bytes[i] >> 4;
    const int low_magnitude = std::min(low, 16 - low);
    const int high_magnitude = std::min(high, 16 - high);
    result.sum += low_magnitude + high_magnitude;
    result.max = std::max({result.max, low_magnitude, high_magnitude});
  }
  return result;
}

CodeMagnitudes OfGroup(const QuantizedWeight& w, int64_t n, int64_t j) {
  const int64_t g = w.format.group_size;
  if (w.format.bits == 8) return OfBytes(w.codes.row<int8_t>(n) + j * g, g);
  return OfNibbles(w.codes.row<uint8_t>(n) + j * g / 2, g / 2);
}

absl::Status VerifyRow(const QuantizedWeight& w, int64_t n, const std::string& name) {
  const bool folded = w.format.scale_width == ScaleWidth::kFolded;
  int64_t sum = 0;
  for (int64_t j = 0; j < w.num_groups(); ++j) {
    const int scale = w.group_scales.row<int16_t>(n)[j];
    const CodeMagnitudes codes = OfGroup(w, n, j);
    if (folded && (scale < 0 || scale > kLargestFoldedScale)) {
      return absl::FailedPreconditionError(
          absl::StrCat(name, ": row ", n, " has group scale ", scale,
                       ", but folded scales are 0 to 15; quantise it again"));
    }
    if (folded && scale * codes.max > kLargestFoldedProduct) {
      return absl::FailedPreconditionError(
          absl::StrCat(name, ": row ", n, " has code * group scale = ", scale * codes.max,
                       " in magnitude, but folded products are at most 120; quantise it again"));
    }
    sum += std::abs(scale) * codes.sum;
  }
  if (sum <= kInt32Max / 127) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(
      name, ": row ", n, " breaks the overflow certificate: 127 * sum |I * q| = ", 127 * sum,
      " is more than ", kInt32Max, "; quantise it again"));
}

}  // namespace

absl::Status VerifyCertificate(const QuantizedWeight& weight, const std::string& name) {
  if (weight.format.scheme != Scheme::kInteger) return absl::OkStatus();
  for (int64_t n = 0; n < weight.n; ++n) {
    if (absl::Status s = VerifyRow(weight, n, name); !s.ok()) return s;
  }
  return absl::OkStatus();
}

}  // namespace intermix
