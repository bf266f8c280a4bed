#include "kernels/cpu/packed_weight.h"

#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"

namespace intermix::cpu {
namespace {

// Longer groups of 4-bit codes could overflow the kernels' sums of 240 * 127 for every other code.
constexpr int64_t kLongestGroup = int64_t{1} << 17;

constexpr int64_t RoundUp(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

absl::Status CheckParts(std::span<const QuantizedWeight> parts) {
  if (parts.empty()) {
    return absl::InvalidArgumentError("no weight parts to pack; give at least one");
  }
  for (const QuantizedWeight& part : parts) {
    if (part.k != parts[0].k) {
      return absl::InvalidArgumentError(absl::StrCat("stacked weights have in-features ",
                                                     parts[0].k, " and ", part.k,
                                                     "; they must be equal"));
    }
    const bool quantized = part.format.scheme != Scheme::kNone;
    if (quantized != (parts[0].format.scheme != Scheme::kNone)) {
      return absl::InvalidArgumentError(
          absl::StrCat("a weight of format ", parts[0].format.ToString(), " is stacked on one of ",
                       part.format.ToString(), "; quantise all of them or none"));
    }
    if (quantized && part.format.group_size > kLongestGroup) {
      return absl::InvalidArgumentError(absl::StrCat("groups of ", part.format.group_size,
                                                     " in-features are too long; the CPU "
                                                     "kernels sum at most ",
                                                     kLongestGroup));
    }
  }
  return absl::OkStatus();
}

// Byte offsets of a quantised part's arrays in one allocation.
struct Layout {
  int64_t blocks;
  int64_t scales_at;
  int64_t channels_at;
  int64_t bytes;
};

Layout LayoutOf(const QuantPart& quant, bool integer) {
  Layout layout;
  layout.blocks = (quant.n + kBlockRows - 1) / kBlockRows;
  const int64_t scale_bytes = integer ? 2 : 4;
  layout.scales_at = layout.blocks * quant.block_bytes();
  layout.channels_at =
      RoundUp(layout.scales_at + layout.blocks * quant.num_groups * kBlockRows * scale_bytes, 64);
  layout.bytes = layout.channels_at + (integer ? layout.blocks * kBlockRows * 4 : 0);
  return layout;
}

// Puts code k' (padded) of out feature n where the kernels look for it.
void PutCode(const QuantPart& quant, int64_t n, int64_t k, int code, uint8_t* codes) {
  uint8_t* block = codes + n / kBlockRows * quant.block_bytes();
  const int64_t row = n % kBlockRows * 4;
  if (quant.bits == 8) {
    block[k / 4 * 64 + row + k % 4] = static_cast<uint8_t>(code + 128);
    return;
  }
  uint8_t& byte = block[k / 8 * 64 + row + k % 4];
  byte = static_cast<uint8_t>(byte | (code + 8) << (k % 8 < 4 ? 0 : 4));
}

void PackCodes(const QuantizedWeight& weight, const QuantPart& quant, uint8_t* codes) {
  const int64_t g = weight.format.group_size;
  for (int64_t n = 0; n < weight.n; ++n) {
    for (int64_t j = 0; j < quant.num_groups; ++j) {
      for (int64_t i = 0; i < g; ++i) {
        PutCode(quant, n, j * quant.group_quads * 4 + i, CodeAt(weight, n, j * g + i), codes);
      }
    }
  }
}

// scales [N, groups] to [blocks][groups][16]
template <typename T>
void PackScales(const QuantizedWeight& weight, int64_t num_groups, T* out) {
  for (int64_t n = 0; n < weight.n; ++n) {
    for (int64_t j = 0; j < num_groups; ++j) {
      out[(n / kBlockRows * num_groups + j) * kBlockRows + n % kBlockRows] =
          weight.group_scales.row<T>(n)[j];
    }
  }
}

CpuPackedWeight::Part PackQuantized(const QuantizedWeight& weight, int64_t begin) {
  const bool integer = weight.format.scheme == Scheme::kInteger;
  CpuPackedWeight::Part part;
  part.begin = begin;
  part.n = weight.n;
  part.group_size = weight.format.group_size;
  part.quant = {.n = weight.n,
                .num_groups = weight.num_groups(),
                .group_quads = RoundUp(weight.format.group_size, 8) / 4,
                .bits = weight.format.bits,
                .folded = integer && weight.format.bits == 4 &&
                          weight.format.scale_width == ScaleWidth::kFolded};
  const Layout layout = LayoutOf(part.quant, integer);
  part.memory = Buffer::Host(static_cast<size_t>(layout.bytes));
  auto* base = static_cast<uint8_t*>(part.memory.data());
  PackCodes(weight, part.quant, base);
  part.quant.codes = base;
  if (integer) {
    auto* scales = reinterpret_cast<int16_t*>(base + layout.scales_at);
    PackScales(weight, part.quant.num_groups, scales);
    auto* channels = reinterpret_cast<float*>(base + layout.channels_at);
    for (int64_t n = 0; n < weight.n; ++n) channels[n] = weight.channel_scales.data<float>()[n];
    part.quant.int_scales = scales;
    part.quant.channel_scales = channels;
  } else {
    auto* scales = reinterpret_cast<float*>(base + layout.scales_at);
    PackScales(weight, part.quant.num_groups, scales);
    part.quant.float_scales = scales;
  }
  return part;
}

CpuPackedWeight::Part PackUnquantized(const QuantizedWeight& weight, int64_t begin) {
  CpuPackedWeight::Part part;
  part.begin = begin;
  part.n = weight.n;
  part.memory = Buffer::Host(static_cast<size_t>(weight.codes.bytes()));
  part.rows = part.memory.View(weight.codes.dtype(), {weight.n, weight.k});
  const size_t row_bytes = static_cast<size_t>(weight.k) * ByteSize(weight.codes.dtype());
  for (int64_t n = 0; n < weight.n; ++n) {
    std::memcpy(part.rows.Rows(n, n + 1).raw(), weight.codes.Rows(n, n + 1).raw(), row_bytes);
  }
  return part;
}

}  // namespace

absl::StatusOr<std::unique_ptr<CpuPackedWeight>> CpuPackedWeight::Pack(
    std::span<const QuantizedWeight> parts) {
  if (absl::Status s = CheckParts(parts); !s.ok()) return s;
  int64_t n = 0;
  for (const QuantizedWeight& part : parts) n += part.n;
  const bool quantized = parts[0].format.scheme != Scheme::kNone;
  std::unique_ptr<CpuPackedWeight> packed(new CpuPackedWeight(n, parts[0].k, quantized));
  int64_t begin = 0;
  for (const QuantizedWeight& part : parts) {
    packed->parts_.push_back(quantized ? PackQuantized(part, begin) : PackUnquantized(part, begin));
    begin += part.n;
  }
  return packed;
}

int64_t CpuPackedWeight::bytes() const {
  int64_t total = 0;
  for (const Part& part : parts_) total += static_cast<int64_t>(part.memory.bytes());
  return total;
}

}  // namespace intermix::cpu
