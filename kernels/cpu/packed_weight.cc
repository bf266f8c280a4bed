#include "kernels/cpu/packed_weight.h"

#include <algorithm>
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
    if (part.format.bits == 4 && quantized && part.format.group_size % 2 != 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("a group of ", part.format.group_size,
                       " in-features ends inside a byte of 4-bit codes; use an even group size"));
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

// Four nibbles n0 .. n3 (n0 lowest) of `bits`, one to a byte.
uint32_t SpreadNibbles(uint32_t bits) {
  bits = (bits | bits << 8) & 0x00FF00FFu;
  return (bits | bits << 4) & 0x0F0F0F0Fu;
}

// 8 codes of 4 bits, in order, become the low and the high nibbles of 4 bytes, plus 8 each.
uint32_t InterleaveNibbles(uint32_t codes) {
  return (SpreadNibbles(codes & 0xFFFFu) | SpreadNibbles(codes >> 16) << 4) ^ 0x88888888u;
}

// One group of one out feature, a word every 64 bytes.
//   codes  where the group begins: 4 bits each, or int8
//   out    that feature's first word in its block
template <int kBits>
void PackGroup(const uint8_t* codes, int64_t group_size, uint8_t* out) {
  const auto packed = [](uint32_t word) {
    return kBits == 4 ? InterleaveNibbles(word) : word ^ 0x80808080u;
  };
  const int64_t bytes = group_size * kBits / 8;
  int64_t i = 0;
  uint32_t word = 0;
  for (; i + 4 <= bytes; i += 4, out += 64) {
    std::memcpy(&word, codes + i, 4);
    word = packed(word);
    std::memcpy(out, &word, 4);
  }
  if (i == bytes) return;
  word = 0;
  std::memcpy(&word, codes + i, static_cast<size_t>(bytes - i));
  word = packed(word);
  std::memcpy(out, &word, 4);
}

void PackBlock(const QuantizedWeight& weight, const QuantPart& quant, int64_t block,
               uint8_t* codes) {
  const int64_t group_bytes = quant.group_quads * (quant.bits == 4 ? 32 : 64);
  const int64_t begin = block * kBlockRows;
  const int64_t end = std::min<int64_t>(begin + kBlockRows, weight.n);
  // Group sizes are even, so a 4-bit group begins on a whole byte.
  const int64_t source_bytes = weight.format.group_size * quant.bits / 8;
  for (int64_t n = begin; n < end; ++n) {
    const auto* source = static_cast<const uint8_t*>(weight.codes.Rows(n, n + 1).raw());
    uint8_t* out = codes + block * quant.block_bytes() + (n - begin) * 4;
    for (int64_t j = 0; j < quant.num_groups; ++j) {
      if (quant.bits == 4) {
        PackGroup<4>(source + j * source_bytes, weight.format.group_size, out + j * group_bytes);
      } else {
        PackGroup<8>(source + j * source_bytes, weight.format.group_size, out + j * group_bytes);
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

CpuPackedWeight::Part PackQuantized(const QuantizedWeight& weight, int64_t begin,
                                    ThreadPool& pool) {
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
  pool.ParallelFor(layout.blocks, 1, [&](int64_t first, int64_t last, int) {
    for (int64_t block = first; block < last; ++block) PackBlock(weight, part.quant, block, base);
  });
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
    std::span<const QuantizedWeight> parts, ThreadPool& pool) {
  if (absl::Status s = CheckParts(parts); !s.ok()) return s;
  int64_t n = 0;
  for (const QuantizedWeight& part : parts) n += part.n;
  const bool quantized = parts[0].format.scheme != Scheme::kNone;
  std::unique_ptr<CpuPackedWeight> packed(new CpuPackedWeight(n, parts[0].k, quantized));
  int64_t begin = 0;
  for (const QuantizedWeight& part : parts) {
    packed->parts_.push_back(quantized ? PackQuantized(part, begin, pool)
                                       : PackUnquantized(part, begin));
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
