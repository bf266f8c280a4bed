#include "kernels/cuda/gemm_pack.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/core/int_math.h"

namespace intermix::cuda {
namespace {

constexpr int64_t kAlignment = 256;
constexpr int64_t kTile = 16;

absl::Status CheckFormat(const QuantizedWeight& weight) {
  const WeightFormat& format = weight.format;
  if (format.scheme == Scheme::kNone) {
    return absl::InvalidArgumentError(
        "an unquantised weight has no integer GEMM; it runs through cuBLASLt");
  }
  const bool whole_steps =
      format.group_size >= kStepK && std::has_single_bit(static_cast<uint64_t>(format.group_size));
  if (!whole_steps && format.group_size != weight.k) {
    return absl::InvalidArgumentError(
        absl::StrCat("groups of ", format.group_size, " in-features (of ", weight.k,
                     ") do not run on CUDA; quantise with groups of 32, 64, 128 or the whole row"));
  }
  if (weight.k > kGemmMaxK) {
    return absl::InvalidArgumentError(absl::StrCat(weight.k,
                                                   " in-features are too many for int32 "
                                                   "sums on CUDA; the limit is ",
                                                   kGemmMaxK));
  }
  return absl::OkStatus();
}

GemmMode ModeOf(const QuantizedWeight& weight) {
  const bool four = weight.format.bits == 4;
  if (weight.format.scheme == Scheme::kFloat) return four ? GemmMode::kFloat4 : GemmMode::kFloat8;
  if (weight.num_groups() == 1) return four ? GemmMode::kFolded4 : GemmMode::kPlain8;
  if (!four) return GemmMode::kWide8;
  return weight.format.scale_width == ScaleWidth::kFolded ? GemmMode::kFolded4 : GemmMode::kWide4;
}

// One group of any width under an integer scheme: its scale multiplies the finished sum.
bool HasMultipliers(const QuantizedWeight& weight) {
  return weight.format.scheme == Scheme::kInteger && weight.num_groups() == 1;
}

// Four nibbles, one to the low half of each byte.
uint32_t Spread(uint32_t nibbles) {
  nibbles = (nibbles | nibbles << 8) & 0x00FF00FFu;
  return (nibbles | nibbles << 4) & 0x0F0F0F0Fu;
}

uint32_t Load16(const uint8_t* bytes) { return bytes[0] | static_cast<uint32_t>(bytes[1]) << 8; }

// Codes of one out feature, padded with zero codes to whole units.
class PaddedRow {
 public:
  PaddedRow(const QuantizedWeight& weight, int64_t padded_k)
      : weight_(weight),
        row_bytes_(weight.k * weight.format.bits / 8),
        bytes_(static_cast<size_t>(padded_k * weight.format.bits / 8)) {}

  // Row n; all zero beyond the last.
  const uint8_t* Read(int64_t n) {
    std::fill(bytes_.begin(), bytes_.end(), uint8_t{0});
    if (n < weight_.n) {
      std::memcpy(bytes_.data(), weight_.codes.Rows(n, n + 1).raw(),
                  static_cast<size_t>(row_bytes_));
    }
    return bytes_.data();
  }

 private:
  const QuantizedWeight& weight_;
  int64_t row_bytes_;
  std::vector<uint8_t> bytes_;
};

// The word of lane t: 16 bytes of one step hold its 32 codes, two to a byte.
uint32_t StepWord4(const uint8_t* step, int t) {
  return Spread(Load16(step + 2 * t)) | Spread(Load16(step + 8 + 2 * t)) << 4;
}

void PackRow4(const uint8_t* row, int64_t units, int feature, uint32_t flip, uint8_t* tile) {
  const int g = feature / 2;
  const int p = feature % 2;
  for (int64_t unit = 0; unit < units; ++unit) {
    for (int step = 0; step < 2; ++step) {
      for (int t = 0; t < 4; ++t) {
        const uint32_t word = StepWord4(row + unit * 32 + step * 16, t) ^ flip;
        std::memcpy(tile + unit * kUnitBytes + (4 * g + t) * 16 + step * 8 + p * 4, &word, 4);
      }
    }
  }
}

void PackRow8(const uint8_t* row, int64_t units, int feature, uint8_t* tile) {
  const int g = feature / 2;
  const int p = feature % 2;
  for (int64_t unit = 0; unit < units; ++unit) {
    for (int half = 0; half < 2; ++half) {
      for (int t = 0; t < 4; ++t) {
        std::memcpy(tile + unit * kUnitBytes + (4 * g + t) * 16 + half * 8 + p * 4,
                    row + unit * 32 + half * 16 + t * 4, 4);
      }
    }
  }
}

void PackCodes(const QuantizedWeight& weight, GemmMode mode, uint8_t* out) {
  const int64_t unit_k = UnitSteps(weight.format.bits) * kStepK;
  const int64_t units = RoundUp(weight.k, unit_k) / unit_k;
  const uint32_t flip = mode == GemmMode::kFolded4 ? 0x88888888u : 0;  // q to q + 8
  PaddedRow row(weight, units * unit_k);
  for (int64_t n = 0; n < RoundUp(weight.n, kTile); ++n) {
    uint8_t* tile = out + n / kTile * units * kUnitBytes;
    const int feature = static_cast<int>(n % kTile);
    if (weight.format.bits == 4) {
      PackRow4(row.Read(n), units, feature, flip, tile);
    } else {
      PackRow8(row.Read(n), units, feature, tile);
    }
  }
}

// From [N, groups] to [tiles, groups, 16].
template <typename From, typename To>
void PackScales(const QuantizedWeight& weight, To* out) {
  const int64_t groups = weight.num_groups();
  for (int64_t n = 0; n < weight.n; ++n) {
    const From* scales = weight.group_scales.row<From>(n);
    for (int64_t j = 0; j < groups; ++j) {
      out[(n / kTile * groups + j) * kTile + n % kTile] = static_cast<To>(scales[j]);
    }
  }
}

absl::Status CheckFoldedScales(const QuantizedWeight& weight) {
  for (int64_t n = 0; n < weight.n; ++n) {
    const int16_t* scales = weight.group_scales.row<int16_t>(n);
    for (int64_t j = 0; j < weight.num_groups(); ++j) {
      if (scales[j] >= 0 && scales[j] <= 15) continue;
      return absl::InvalidArgumentError(absl::StrCat("folded scale ", scales[j], " of out feature ",
                                                     n, ", group ", j, " is not in 0..15"));
    }
  }
  return absl::OkStatus();
}

void PackAllScales(const QuantizedWeight& weight, GemmMode mode, uint8_t* out) {
  if (mode == GemmMode::kPlain8) return;
  if (SumsInFloat(mode)) {
    PackScales<float>(weight, reinterpret_cast<float*>(out));
  } else if (Promotes(mode)) {
    PackScales<int16_t>(weight, reinterpret_cast<int16_t*>(out));
  } else if (HasMultipliers(weight)) {
    std::fill_n(out, RoundUp(weight.n, kTile), uint8_t{1});
  } else {
    PackScales<int16_t>(weight, out);
  }
}

}  // namespace

GemmExpert GemmPack::At(const void* device) const {
  const char* base = static_cast<const char*>(device);
  GemmExpert at = expert;
  at.codes = base;
  at.scales = base + scales_at;
  if (multipliers_at >= 0) at.multipliers = reinterpret_cast<const int16_t*>(base + multipliers_at);
  if (channels_at >= 0) at.channel_scales = reinterpret_cast<const float*>(base + channels_at);
  return at;
}

absl::StatusOr<GemmPack> PackGemmWeight(const QuantizedWeight& weight) {
  if (absl::Status s = CheckFormat(weight); !s.ok()) return s;
  GemmPack pack;
  pack.n = weight.n;
  pack.k = weight.k;
  GemmExpert& expert = pack.expert;
  expert.mode = ModeOf(weight);
  const bool multipliers = HasMultipliers(weight);
  if (expert.mode == GemmMode::kFolded4 && !multipliers) {
    if (absl::Status s = CheckFoldedScales(weight); !s.ok()) return s;
  }
  expert.num_groups = static_cast<int32_t>(weight.num_groups());
  if (expert.num_groups > 1) {
    expert.group_shift = std::countr_zero(static_cast<uint64_t>(weight.format.group_size / kStepK));
  }

  const int64_t padded_n = RoundUp(weight.n, kTile);
  const int64_t unit_k = UnitSteps(weight.format.bits) * kStepK;
  int64_t bytes = padded_n / kTile * (RoundUp(weight.k, unit_k) / unit_k) * kUnitBytes;
  const auto place = [&bytes](int64_t size) {
    const int64_t at = RoundUp(bytes, kAlignment);
    bytes = at + size;
    return at;
  };
  pack.scales_at = place(padded_n * expert.num_groups * ScaleBytes(expert.mode));
  if (multipliers) pack.multipliers_at = place(padded_n * 2);
  if (weight.format.scheme == Scheme::kInteger) pack.channels_at = place(padded_n * 4);

  pack.bytes = Buffer::Host(static_cast<size_t>(bytes));
  uint8_t* out = static_cast<uint8_t*>(pack.bytes.data());
  PackCodes(weight, expert.mode, out);
  PackAllScales(weight, expert.mode, out + pack.scales_at);
  if (multipliers) {
    std::memcpy(out + pack.multipliers_at, weight.group_scales.raw(),
                static_cast<size_t>(weight.n) * 2);
  }
  if (pack.channels_at >= 0) {
    std::memcpy(out + pack.channels_at, weight.channel_scales.raw(),
                static_cast<size_t>(weight.n) * 4);
  }
  return pack;
}

}  // namespace intermix::cuda
