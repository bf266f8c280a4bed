// The overflow certificate of a finished weight, read back from its packed codes.
#include <algorithm>
#include <cstdlib>
#include <cstring>
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

// 16 bytes as the compilers' own vector type.
using CodeBytes [[gnu::vector_size(16)]] = uint8_t;

int64_t SumOfLanes(CodeBytes bytes) {
  constexpr uint64_t kEven = 0x00FF00FF00FF00FF;
  uint64_t halves[2];
  std::memcpy(halves, &bytes, sizeof halves);
  uint64_t sum = 0;  // four of 16 bits
  for (const uint64_t half : halves) sum += (half & kEven) + (half >> 8 & kEven);
  return static_cast<int64_t>(sum * 0x0001000100010001 >> 48);
}

// sum of |q| over the nibbles of `bytes`. A nibble x of two's complement has magnitude
// min(x, 16 - x).
int64_t SumOfNibbles(const uint8_t* bytes, int64_t count) {
  constexpr int64_t kMost = 15 * 16;  // bytes whose magnitudes, at most 16 for two, fit a lane
  int64_t sum = 0;
  int64_t i = 0;
  while (i + 16 <= count) {
    CodeBytes lanes{};
    for (const int64_t end = std::min(count - 15, i + kMost); i < end; i += 16) {
      CodeBytes both;
      std::memcpy(&both, bytes + i, sizeof both);
      for (const CodeBytes x : {both & 0xF, both >> 4}) lanes += x < 16 - x ? x : 16 - x;
    }
    sum += SumOfLanes(lanes);
  }
  for (; i < count; ++i) {
    const int low = bytes[i] & 0xF;
    const int high = bytes[i] >> 4;
    sum += std::min(low, 16 - low) + std::min(high, 16 - high);
  }
  return sum;
}

CodeMagnitudes OfGroup(const QuantizedWeight& w, int64_t n, int64_t j) {
  const int64_t g = w.format.group_size;
  if (w.format.bits == 8) return OfBytes(w.codes.row<int8_t>(n) + j * g, g);
  // That no code of 4 bits is beyond 8 is all that folded scales ask.
  return {.sum = SumOfNibbles(w.codes.row<uint8_t>(n) + j * g / 2, g / 2), .max = 8};
}

static_assert(8 * kLargestFoldedScale <= kLargestFoldedProduct);

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
