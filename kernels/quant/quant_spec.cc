#include "absl/strings/str_cat.h"
#include "kernels/quant/integer_scale.h"

namespace intermix {

absl::Status QuantSpec::Validate() const {
  if (scheme == Scheme::kNone) return absl::OkStatus();
  if (bits != 4 && bits != 8) {
    return absl::InvalidArgumentError(absl::StrCat("bits ", bits, " is not supported; use 4 or 8"));
  }
  if (group_size != 0 && group_size != 32 && group_size != 64 && group_size != 128) {
    return absl::InvalidArgumentError(
        absl::StrCat("group size ", group_size,
                     " is not supported; use 32, 64, 128, or 0 for one group over the whole row"));
  }
  if (scheme == Scheme::kFloat) return absl::OkStatus();
  if (scales == ScaleChoice::kFolded && bits == 8) {
    return absl::InvalidArgumentError(
        "folded scales need 4 bits, not 8; use wide or auto scales with 8 bits");
  }
  if (scales == ScaleChoice::kFolded && amplifier.kind != Amplifier::Kind::kChannel) {
    return absl::InvalidArgumentError(
        "folded scales choose their own amplifier; use amplifier channel, or wide scales");
  }
  const int64_t a = amplifier.value;
  if (amplifier.kind == Amplifier::Kind::kFixed && (a < 1 || (a & (a - 1)) != 0)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "amplifier ", a, " is not a power of two; use channel, heuristic, or a number like 1024"));
  }
  return absl::OkStatus();
}

}  // namespace intermix
