// Weights of random codes and scales in the canonical form, fast enough for a whole model, and
// scaled like a trained layer's so that values neither vanish nor blow up. The overflow certificate
// holds. The same seed gives the same weight.
#pragma once

#include <cstdint>

#include "kernels/quant/integer_scale.h"
#include "kernels/quant/weight.h"

namespace intermix {

// Fills `count` words from a counter-based generator (SplitMix64).
void FillRandomBits(uint64_t seed, uint64_t* words, size_t count);

// The format that `spec` gives a weight of `bits`: ScaleChoice::kAuto is folded where it can be.
WeightFormat FormatOf(const QuantSpec& spec, int bits, int64_t k);

// Scheme::kNone gives bfloat16 values.
QuantizedWeight MakeRandomWeight(const WeightFormat& format, int64_t n, int64_t k, uint64_t seed);

// [rows, cols], or [cols] where rows is 1, of about Gaussian values times `stddev`; float32 or
// bfloat16.
OwnedTensor RandomValues(DType dtype, int64_t rows, int64_t cols, double stddev, uint64_t seed);

}  // namespace intermix
