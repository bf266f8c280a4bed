// The one list of linear layers that every backend's parity test runs against ReferenceBackend.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/backend.h"
#include "kernels/quant/weight.h"
#include "tests/testing/random.h"

namespace intermix {

// One weight shape in one format. Tests run every entry of GemmTokens() through it.
struct GemmCase {
  WeightFormat format;
  int64_t n = 0;
  int64_t k = 0;
  DType unquantized = DType::kF32;  // dtype of the values under Scheme::kNone

  QuantizedWeight Weight(uint64_t seed, Content content) const {
    return RandomWeight(format, n, k, seed, content, unquantized);
  }
  std::string ToString() const;  // "integer wide W4 g64, N 48, K 192"
};

// Numbers of rows: none, one, ragged, more than any tile.
const std::vector<int64_t>& GemmTokens();

// Every format (folded and wide integer, float, none; 4 and 8 bits) at every N and K / group size.
std::vector<GemmCase> GemmCases();

// Row offsets of 8 experts, some or all of them with no rows: [9] each, from 0.
const std::vector<std::vector<int32_t>>& ExpertRowOffsets();

// What a Gemm may write for this weight: float32, bfloat16, and int32 for integer schemes.
std::vector<DType> GemmOutputs(const WeightFormat& format);

}  // namespace intermix
