#include "kernels/cpu/packed_weight.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/core/int_math.h"

namespace intermix::cpu {
namespace {

// Longer groups of 4-bit codes could overflow the kernels' sums of 240 * 127 for every other code.
constexpr int64_t kLongestGroup = int64_t{1} << 17;

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

// Four out features' words of 4 bytes, so that several are packed at once.
using Words [[gnu::vector_size(16)]] = uint32_t;

// Four nibbles n0 .. n3 (n0 lowest) of `bits`, one to a byte.
template <typename T>
T SpreadNibbles(T bits) {
  bits = (bits | bits << 8) & 0x00FF00FFu;
  return (bits | bits << 4) & 0x0F0F0F0Fu;
}

// A word as it stands in a block. Of 4 bits: 8 codes, in order, become the low and the high nibbles
// of 4 bytes, plus 8 each. T: uint32_t or Words.
template <int kBits, typename T>
T PackWord(T word) {
  if constexpr (kBits == 8) return word ^ 0x80808080u;
  return (SpreadNibbles(word & 0xFFFFu) | SpreadNibbles(word >> 16) << 4) ^ 0x88888888u;
}

// One group of one out feature, a word every 64 bytes.
//   codes  where the group begins: 4 bits each, or int8
//   out    that feature's first word in its block
template <int kBits>
void PackGroup(const uint8_t* codes, int64_t group_size, uint8_t* out) {
  const int64_t bytes = group_size * kBits / 8;
  for (int64_t i = 0; i < bytes; i += 4, out += 64) {
    uint32_t word = 0;
    std::memcpy(&word, codes + i, static_cast<size_t>(std::min<int64_t>(4, bytes - i)));
    word = PackWord<kBits>(word);
    std::memcpy(out, &word, 4);
  }
}

// Four words of each of four out features, transposed.
//   codes   the first feature's words; the next one's are `stride` bytes on
//   out     the first feature's first word in its block
template <int kBits>
[[gnu::always_inline]] inline void PackFour(const uint8_t* codes, int64_t stride, uint8_t* out) {
  Words rows[4];
  for (int r = 0; r < 4; ++r) {
    std::memcpy(&rows[r], codes + r * stride, sizeof(Words));
    rows[r] = PackWord<kBits>(rows[r]);
  }
  const Words a = __builtin_shufflevector(rows[0], rows[1], 0, 4, 1, 5);
  const Words b = __builtin_shufflevector(rows[2], rows[3], 0, 4, 1, 5);
  const Words c = __builtin_shufflevector(rows[0], rows[1], 2, 6, 3, 7);
  const Words d = __builtin_shufflevector(rows[2], rows[3], 2, 6, 3, 7);
  const Words columns[4] = {
      __builtin_shufflevector(a, b, 0, 1, 4, 5), __builtin_shufflevector(a, b, 2, 3, 6, 7),
      __builtin_shufflevector(c, d, 0, 1, 4, 5), __builtin_shufflevector(c, d, 2, 3, 6, 7)};
  for (int i = 0; i < 4; ++i) std::memcpy(out + 64 * i, &columns[i], sizeof(Words));
}

// A block of 16 out features whose groups need no padding, so that all of K is one run. A cache
// line of each feature's codes at a time.
template <int kBits>
void PackWholeBlock(const uint8_t* codes, int64_t stride, int64_t row_bytes, uint8_t* out) {
  constexpr int64_t kLine = 64;
  for (int64_t line = 0; line < row_bytes; line += kLine) {
    const int64_t end = std::min(line + kLine, row_bytes);
    for (int row = 0; row < kBlockRows; row += 4) {
      for (int64_t i = line; i < end; i += 16) {
        PackFour<kBits>(codes + row * stride + i, stride, out + i * 16 + row * 4);
      }
    }
  }
}

template <int kBits>
void PackBlockCodes(const QuantizedWeight& weight, const QuantPart& quant, int64_t block,
                    uint8_t* codes) {
  const int64_t begin = block * kBlockRows;
  const int64_t end = std::min<int64_t>(begin + kBlockRows, weight.n);
  const auto* source = static_cast<const uint8_t*>(weight.codes.raw());
  const int64_t stride = weight.codes.stride(0);
  uint8_t* out = codes + block * quant.block_bytes();
  const int64_t row_bytes = weight.k * kBits / 8;
  const bool padded = weight.format.group_size != quant.group_quads * 4;
  if (end - begin == kBlockRows && !padded && row_bytes % 16 == 0) {
    PackWholeBlock<kBits>(source + begin * stride, stride, row_bytes, out);
    return;
  }
  // Group sizes are even, so a 4-bit group begins on a whole byte.
  const int64_t source_bytes = weight.format.group_size * kBits / 8;
  const int64_t group_bytes = quant.group_quads * (kBits == 4 ? 32 : 64);
  for (int64_t n = begin; n < end; ++n) {
    for (int64_t j = 0; j < quant.num_groups; ++j) {
      PackGroup<kBits>(source + n * stride + j * source_bytes, weight.format.group_size,
                       out + (n - begin) * 4 + j * group_bytes);
    }
  }
}

// scales [N, groups] to [blocks][groups][16]
template <typename T>
void PackBlockScales(const QuantizedWeight& weight, int64_t num_groups, int64_t block, T* out) {
  const int64_t begin = block * kBlockRows;
  const int64_t end = std::min<int64_t>(begin + kBlockRows, weight.n);
  out += block * num_groups * kBlockRows;
  for (int64_t n = begin; n < end; ++n) {
    const T* scales = weight.group_scales.row<T>(n);
    for (int64_t j = 0; j < num_groups; ++j) out[j * kBlockRows + n - begin] = scales[j];
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
  part.memory = Buffer::HostUntouched(static_cast<size_t>(layout.bytes));
  auto* base = static_cast<uint8_t*>(part.memory.data());
  auto* scales = base + layout.scales_at;
  pool.ParallelFor(layout.blocks, 1, [&](int64_t block, int64_t, int) {
    if (part.quant.bits == 4) {
      PackBlockCodes<4>(weight, part.quant, block, base);
    } else {
      PackBlockCodes<8>(weight, part.quant, block, base);
    }
    if (integer) {
      PackBlockScales(weight, part.quant.num_groups, block, reinterpret_cast<int16_t*>(scales));
    } else {
      PackBlockScales(weight, part.quant.num_groups, block, reinterpret_cast<float*>(scales));
    }
  });
  part.quant.codes = base;
  if (integer) {
    auto* channels = reinterpret_cast<float*>(base + layout.channels_at);
    for (int64_t n = 0; n < weight.n; ++n) channels[n] = weight.channel_scales.data<float>()[n];
    part.quant.int_scales = reinterpret_cast<const int16_t*>(scales);
    part.quant.channel_scales = channels;
  } else {
    part.quant.float_scales = reinterpret_cast<const float*>(scales);
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
