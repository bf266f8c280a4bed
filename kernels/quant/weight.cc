#include "kernels/quant/weight.h"

#include <cstring>

#include "kernels/core/check.h"

namespace intermix {

std::string WeightFormat::ToString() const {
  if (scheme == Scheme::kNone) return "none";
  std::string text = "float";
  if (scheme == Scheme::kInteger) {
    text = scale_width == ScaleWidth::kFolded ? "integer folded" : "integer wide";
  }
  return text + " W" + std::to_string(bits) + " g" + std::to_string(group_size);
}

QuantizedWeight QuantizedWeight::RowSlice(int64_t begin, int64_t end) const {
  QuantizedWeight slice = *this;
  slice.n = end - begin;
  slice.codes = codes.Rows(begin, end);
  if (!group_scales.empty()) slice.group_scales = group_scales.Rows(begin, end);
  if (!channel_scales.empty()) slice.channel_scales = channel_scales.Rows(begin, end);
  return slice;
}

int CodeAt(const QuantizedWeight& weight, int64_t n, int64_t k) {
  CHECK(weight.format.scheme != Scheme::kNone) << "an unquantised weight has no codes";
  if (weight.format.bits == 8) return weight.codes.row<int8_t>(n)[k];
  const int nibble = (weight.codes.row<uint8_t>(n)[k / 2] >> (k % 2 == 0 ? 0 : 4)) & 0xF;
  return (nibble ^ 8) - 8;  // two's complement
}

void UnpackCodes(const QuantizedWeight& weight, int64_t n, int8_t* codes) {
  CHECK(weight.format.scheme != Scheme::kNone) << "an unquantised weight has no codes";
  if (weight.format.bits == 8) {
    std::memcpy(codes, weight.codes.row<int8_t>(n), static_cast<size_t>(weight.k));
    return;
  }
  const uint8_t* bytes = weight.codes.row<uint8_t>(n);
  const int64_t num_pairs = weight.k / 2;
  for (int64_t i = 0; i < num_pairs; ++i) {
    codes[2 * i] = static_cast<int8_t>(((bytes[i] & 0xF) ^ 8) - 8);
    codes[2 * i + 1] = static_cast<int8_t>(((bytes[i] >> 4) ^ 8) - 8);
  }
}

}  // namespace intermix
