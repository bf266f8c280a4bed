#include "tests/testing/compare.h"

#include <cmath>
#include <cstring>
#include <string>

namespace intermix {
namespace {

const char* Address(const Tensor& tensor, const std::array<int64_t, Tensor::kMaxRank>& index) {
  int64_t offset = 0;
  for (int d = 0; d < tensor.rank(); ++d) offset += index[d] * tensor.stride(d);
  return static_cast<const char*>(tensor.raw()) +
         offset * static_cast<int64_t>(ByteSize(tensor.dtype()));
}

double Value(const char* address, DType dtype) {
  switch (dtype) {
    case DType::kF32: {
      float value;
      std::memcpy(&value, address, sizeof value);
      return value;
    }
    case DType::kI32: {
      int32_t value;
      std::memcpy(&value, address, sizeof value);
      return value;
    }
    case DType::kI8:
      return static_cast<double>(static_cast<int8_t>(*address));
    case DType::kU8:
      return static_cast<double>(static_cast<uint8_t>(*address));
    default:
      break;
  }
  uint16_t bits;
  std::memcpy(&bits, address, sizeof bits);
  if (dtype == DType::kBF16) return static_cast<float>(BFloat16::FromBits(bits));
  if (dtype == DType::kF16) return HalfToFloat(bits);
  return static_cast<int16_t>(bits);
}

std::string IndexText(const Tensor& tensor, const std::array<int64_t, Tensor::kMaxRank>& index) {
  std::string text = "[";
  for (int d = 0; d < tensor.rank(); ++d) text += (d == 0 ? "" : ", ") + std::to_string(index[d]);
  return text + "]";
}

bool SameShape(const Tensor& a, const Tensor& b) {
  bool same = a.dtype() == b.dtype() && a.rank() == b.rank();
  for (int d = 0; same && d < a.rank(); ++d) same = a.shape(d) == b.shape(d);
  return same;
}

}  // namespace

::testing::AssertionResult BitwiseEqual(const Tensor& actual, const Tensor& expected) {
  if (!SameShape(actual, expected)) {
    return ::testing::AssertionFailure()
           << "actual is " << actual.ToString() << ", expected is " << expected.ToString();
  }
  const DType dtype = actual.dtype();
  int64_t num_different = 0;
  std::string first;
  std::array<int64_t, Tensor::kMaxRank> index{};
  for (int64_t i = 0; i < actual.num_elements(); ++i) {
    const char* a = Address(actual, index);
    const char* e = Address(expected, index);
    if (std::memcmp(a, e, ByteSize(dtype)) != 0 &&
        !(std::isnan(Value(a, dtype)) && std::isnan(Value(e, dtype)))) {
      if (num_different++ == 0) {
        const ::testing::Message message = ::testing::Message()
                                           << IndexText(actual, index) << ": actual "
                                           << Value(a, dtype) << ", expected " << Value(e, dtype);
        first = message.GetString();
      }
    }
    for (int d = actual.rank() - 1; d >= 0 && ++index[d] == actual.shape(d); --d) index[d] = 0;
  }
  if (num_different == 0) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure()
         << num_different << " of " << actual.num_elements() << " elements of " << actual.ToString()
         << " differ; the first at " << first;
}

double ElementAt(const Tensor& tensor, int64_t row, int64_t col) {
  std::array<int64_t, Tensor::kMaxRank> index{};
  index[0] = row;
  if (tensor.rank() > 1) index[1] = col;
  return Value(Address(tensor, index), tensor.dtype());
}

}  // namespace intermix
