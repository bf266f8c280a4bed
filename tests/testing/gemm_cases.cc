#include "tests/testing/gemm_cases.h"

namespace intermix {
namespace {

struct Depth {
  int64_t k;
  int64_t group_size;
};

// Odd and even numbers of groups at each group size; the last ones are a single ragged group.
constexpr Depth kDepths[] = {{32, 32},   {160, 32},   {64, 64},   {192, 64},
                             {384, 128}, {1024, 128}, {256, 256}, {50, 50}};
constexpr int64_t kOutFeatures[] = {1, 5, 16, 48, 130};

std::vector<WeightFormat> QuantizedFormats(int64_t group_size) {
  std::vector<WeightFormat> formats;
  formats.push_back({.scheme = Scheme::kInteger,
                     .scale_width = ScaleWidth::kFolded,
                     .bits = 4,
                     .group_size = group_size});
  for (const int bits : {4, 8}) {
    formats.push_back({.scheme = Scheme::kInteger,
                       .scale_width = ScaleWidth::kWide,
                       .bits = bits,
                       .group_size = group_size});
    formats.push_back({.scheme = Scheme::kFloat,
                       .scale_width = ScaleWidth::kWide,
                       .bits = bits,
                       .group_size = group_size});
  }
  return formats;
}

}  // namespace

std::string GemmCase::ToString() const {
  std::string text = format.ToString();
  if (format.scheme == Scheme::kNone) text.append(" ").append(Name(unquantized));
  return text + ", N " + std::to_string(n) + ", K " + std::to_string(k);
}

const std::vector<int64_t>& GemmTokens() {
  static const std::vector<int64_t> tokens = {0, 1, 3, 17, 257};
  return tokens;
}

std::vector<GemmCase> GemmCases() {
  std::vector<GemmCase> cases;
  for (const int64_t n : kOutFeatures) {
    for (const Depth& depth : kDepths) {
      for (const WeightFormat& format : QuantizedFormats(depth.group_size)) {
        cases.push_back({.format = format, .n = n, .k = depth.k});
      }
      for (const DType dtype : {DType::kF32, DType::kBF16}) {
        cases.push_back({.format = {.scheme = Scheme::kNone, .group_size = depth.k},
                         .n = n,
                         .k = depth.k,
                         .unquantized = dtype});
      }
    }
  }
  return cases;
}

const std::vector<std::vector<int32_t>>& ExpertRowOffsets() {
  static const std::vector<std::vector<int32_t>> offsets = {
      {0, 0, 0, 0, 0, 0, 0, 0, 0},
      {0, 0, 0, 1, 1, 1, 1, 1, 1},
      {0, 3, 3, 20, 21, 21, 30, 62, 62},
      {0, 0, 0, 0, 0, 0, 0, 0, 70},
      {0, 17, 34, 35, 52, 101, 102, 104, 137},
  };
  return offsets;
}

std::vector<DType> GemmOutputs(const WeightFormat& format) {
  std::vector<DType> outputs = {DType::kF32, DType::kBF16};
  if (format.scheme == Scheme::kInteger) outputs.push_back(DType::kI32);
  return outputs;
}

}  // namespace intermix
