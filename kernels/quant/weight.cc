#include "kernels/quant/weight.h"

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

}  // namespace intermix
