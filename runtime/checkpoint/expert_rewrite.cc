#include "runtime/checkpoint/expert_rewrite.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <numeric>
#include <utility>

#include "kernels/core/check.h"

namespace intermix {
namespace {

// Reorders the `count` blocks of `size` elements that begin at `first`. (The standard library's
// shuffle differs from one library to the next.)
void ShuffleBlocks(int64_t* first, int64_t count, int64_t size, std::mt19937_64& random) {
  for (int64_t i = count - 1; i > 0; --i) {
    const auto j = static_cast<int64_t>(random() % static_cast<uint64_t>(i + 1));
    if (i != j) std::swap_ranges(first + i * size, first + (i + 1) * size, first + j * size);
  }
}

// Calls `visit` with the bits of every element and how many of them are mantissa and exponent.
template <typename Visit>
void ForEachElement(const Tensor& weight, const Visit& visit) {
  CHECK(weight.contiguous());
  if (weight.dtype() == DType::kF32) {
    auto* bits = static_cast<uint32_t*>(weight.raw());
    for (int64_t i = 0; i < weight.num_elements(); ++i) visit(bits[i], 23, 0xFF);
    return;
  }
  const bool half = weight.dtype() == DType::kF16;
  CHECK(half || weight.dtype() == DType::kBF16);
  auto* bits = static_cast<uint16_t*>(weight.raw());
  for (int64_t i = 0; i < weight.num_elements(); ++i) {
    visit(bits[i], half ? 10 : 7, half ? 0x1F : 0xFF);
  }
}

template <typename Bits>
bool IsZero(Bits bits) {
  return static_cast<Bits>(bits << 1) == 0;  // but for the sign
}

}  // namespace

ExpertRewrite DrawExpertRewrite(int64_t intermediate, std::mt19937_64& random) {
  ExpertRewrite rewrite;
  rewrite.order.resize(intermediate);
  std::iota(rewrite.order.begin(), rewrite.order.end(), 0);
  int64_t* order = rewrite.order.data();
  // The smallest blocks first; what is left over at the end keeps its place in larger ones.
  int64_t size = 1;
  for (int64_t larger : {32, 64, 128}) {
    for (int64_t begin = 0; begin < intermediate; begin += larger) {
      ShuffleBlocks(order + begin, std::min(larger, intermediate - begin) / size, size, random);
    }
    size = larger;
  }
  ShuffleBlocks(order, intermediate / size, size, random);
  constexpr std::array<int, 4> kExponents = {-2, -1, 1, 2};
  rewrite.exponent = kExponents[random() % kExponents.size()];
  return rewrite;
}

void GatherRows(const Tensor& source, const std::vector<int64_t>& order, const Tensor& out) {
  CHECK_EQ(source.rows(), static_cast<int64_t>(order.size()));
  for (int64_t i = 0; i < source.rows(); ++i) {
    const Tensor row = source.At(order[i]);
    std::memcpy(out.At(i).raw(), row.raw(), static_cast<size_t>(row.bytes()));
  }
}

void GatherCols(const Tensor& source, const std::vector<int64_t>& order, const Tensor& out) {
  CHECK_EQ(source.cols(), static_cast<int64_t>(order.size()));
  const auto gather = [&]<typename Element>(const Element*) {
    for (int64_t row = 0; row < source.rows(); ++row) {
      const auto* from = static_cast<const Element*>(source.At(row).raw());
      auto* to = static_cast<Element*>(out.At(row).raw());
      for (size_t i = 0; i < order.size(); ++i) to[i] = from[order[i]];
    }
  };
  if (ByteSize(source.dtype()) == 4) {
    gather(static_cast<const uint32_t*>(nullptr));
  } else {
    CHECK_EQ(ByteSize(source.dtype()), 2u);
    gather(static_cast<const uint16_t*>(nullptr));
  }
}

ExponentRange ExactScalings(const Tensor& weight) {
  int smallest = 1 << 10;  // of the elements' exponents
  int largest = 0;
  int limit = 0;
  ForEachElement(weight, [&](auto bits, int mantissa_bits, int mask) {
    if (IsZero(bits)) return;
    const int exponent = (bits >> mantissa_bits) & mask;
    smallest = std::min(smallest, exponent);
    largest = std::max(largest, exponent);
    limit = mask;
  });
  if (limit == 0 || smallest == 0 || largest == limit) return {};
  return {.smallest = 1 - smallest, .largest = limit - 1 - largest};
}

void ScaleByPowerOfTwo(const Tensor& weight, int exponent) {
  ForEachElement(weight, [&](auto& bits, int mantissa_bits, int) {
    using Bits = std::remove_reference_t<decltype(bits)>;
    if (IsZero(bits)) return;
    bits = static_cast<Bits>(bits + (static_cast<unsigned>(exponent) << mantissa_bits));
  });
}

}  // namespace intermix
