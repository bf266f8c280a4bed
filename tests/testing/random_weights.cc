#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <memory>
#include <vector>

#include "tests/testing/random.h"

namespace intermix {
namespace {

// The tensors of a weight under construction; becomes its owner.
struct Storage {
  OwnedTensor codes;
  OwnedTensor group_scales;
  OwnedTensor channel_scales;
};

// Codes of one row: [k].
std::vector<int> RowCodes(const WeightFormat& format, int64_t row, int64_t k, Content content,
                          Random& random) {
  const int low = format.bits == 4 ? -8 : -128;
  const int high = format.bits == 4 ? 7 : 127;
  std::vector<int> codes(k);
  for (int& code : codes) {
    code = static_cast<int>(random.Int(low, high));
    if (content == Content::kExtreme) {
      const int any = random.Int(0, 1) == 0 ? low : high;
      code = row % 4 == 0 ? low : row % 4 == 1 ? high : any;
    }
  }
  return codes;
}

void StoreCodes(const WeightFormat& format, const std::vector<int>& codes, int64_t row,
                const Tensor& out) {
  for (size_t k = 0; k < codes.size(); ++k) {
    if (format.bits == 8) {
      out.row<int8_t>(row)[k] = static_cast<int8_t>(codes[k]);
    } else {
      const int nibble = (codes[k] & 0xF) << (k % 2 == 0 ? 0 : 4);
      uint8_t& byte = out.row<uint8_t>(row)[k / 2];
      byte = static_cast<uint8_t>(byte | nibble);
    }
  }
}

// The largest |I| that every group of a row may have under the overflow certificate.
int LargestWideScale(const std::vector<int>& codes) {
  int64_t sum = 0;
  for (int code : codes) sum += std::abs(code);
  const int64_t limit = std::numeric_limits<int32_t>::max() / (127 * std::max<int64_t>(sum, 1));
  CHECK_GE(limit, 1) << "a row of " << codes.size() << " codes cannot meet the certificate";
  return static_cast<int>(std::min<int64_t>(limit, std::numeric_limits<int16_t>::max()));
}

int16_t IntegerScale(const WeightFormat& format, const std::vector<int>& codes, int64_t row,
                     Content content, Random& random) {
  const bool zero = random.Int(0, 7) == 0;
  const bool extreme = content == Content::kExtreme;
  if (zero && (!extreme || row % 4 == 3)) return 0;
  if (format.scale_width == ScaleWidth::kFolded) {
    return static_cast<int16_t>(extreme ? 15 : random.Int(0, 15));
  }
  const int limit = LargestWideScale(codes);
  if (!extreme) return static_cast<int16_t>(random.Int(-limit, limit));
  const bool negative = row % 4 >= 2 && random.Int(0, 1) == 0;
  return static_cast<int16_t>(negative ? -limit : limit);
}

QuantizedWeight UnquantizedWeight(int64_t n, int64_t k, uint64_t seed, DType dtype) {
  auto values = std::make_shared<OwnedTensor>(RandomTensor(dtype, {n, k}, seed, 0.05));
  QuantizedWeight weight;
  weight.format = {.scheme = Scheme::kNone};
  weight.n = n;
  weight.k = k;
  weight.codes = values->view;
  weight.owner = values;
  return weight;
}

}  // namespace

QuantizedWeight RandomWeight(const WeightFormat& format, int64_t n, int64_t k, uint64_t seed,
                             Content content, DType unquantized) {
  if (format.scheme == Scheme::kNone) return UnquantizedWeight(n, k, seed, unquantized);
  CHECK_EQ(k % format.group_size, 0);
  const bool integer = format.scheme == Scheme::kInteger;
  const int64_t groups = k / format.group_size;
  auto storage = std::make_shared<Storage>();
  storage->codes = format.bits == 8 ? OwnedTensor::Host(DType::kI8, {n, k})
                                    : OwnedTensor::Host(DType::kU8, {n, k / 2});
  storage->group_scales = OwnedTensor::Host(integer ? DType::kI16 : DType::kF32, {n, groups});
  if (integer) storage->channel_scales = OwnedTensor::Host(DType::kF32, {n});
  Random random(seed);
  for (int64_t row = 0; row < n; ++row) {
    const std::vector<int> codes = RowCodes(format, row, k, content, random);
    StoreCodes(format, codes, row, storage->codes.view);
    for (int64_t j = 0; j < groups; ++j) {
      if (integer) {
        storage->group_scales.view.row<int16_t>(row)[j] =
            IntegerScale(format, codes, row, content, random);
      } else {
        storage->group_scales.view.row<float>(row)[j] = static_cast<float>(random.Uniform() * 0.01);
      }
    }
    if (integer) {
      storage->channel_scales.view.data<float>()[row] =
          static_cast<float>(1e-4 + 1e-3 * random.Uniform());
    }
  }
  QuantizedWeight weight;
  weight.format = format;
  weight.n = n;
  weight.k = k;
  weight.codes = storage->codes.view;
  weight.group_scales = storage->group_scales.view;
  weight.channel_scales = storage->channel_scales.view;
  weight.owner = storage;
  return weight;
}

}  // namespace intermix
