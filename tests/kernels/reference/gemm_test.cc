// ReferenceBackend's linear layers against the definition, spelled out in double and 64-bit
// integers.
#include <algorithm>
#include <cmath>

#include "gtest/gtest.h"
#include "kernels/reference/reference_backend.h"
#include "tests/testing/compare.h"
#include "tests/testing/gemm_cases.h"

namespace intermix {
namespace {

// The accumulator of one output, from CodeAt alone.
int64_t NaiveAccumulator(const Activations& x, const QuantizedWeight& w, int64_t m, int64_t n) {
  int64_t acc = 0;
  for (int64_t k = 0; k < w.k; ++k) {
    const int64_t scale = w.group_scales.row<int16_t>(n)[k / w.format.group_size];
    acc += scale * CodeAt(w, n, k) * x.values.row<int8_t>(m)[k];
  }
  return acc;
}

// The float output as exactly as double can tell, and the sum of magnitudes that bounds its error.
struct Naive {
  double value = 0.0;
  double magnitude = 0.0;
};

Naive NaiveOutput(const Activations& x, const QuantizedWeight& w, int64_t m, int64_t n) {
  Naive result;
  for (int64_t k = 0; k < w.k; ++k) {
    double weight = 0.0;
    double input = 0.0;
    if (w.format.scheme == Scheme::kNone) {
      weight = ElementAt(w.codes, n, k);
      input = ElementAt(x.values, m, k);
    } else {
      weight = CodeAt(w, n, k) * ElementAt(w.group_scales, n, k / w.format.group_size);
      if (!w.channel_scales.empty()) weight *= ElementAt(w.channel_scales, n);
      input = ElementAt(x.values, m, k) * ElementAt(x.scales, m);
    }
    result.value += weight * input;
    result.magnitude += std::fabs(weight * input);
  }
  return result;
}

class ReferenceGemmTest : public ::testing::Test {
 protected:
  std::unique_ptr<PackedWeight> Pack(const QuantizedWeight& weight) {
    absl::StatusOr<std::unique_ptr<PackedWeight>> packed = backend_.Prepack({&weight, 1});
    EXPECT_TRUE(packed.ok()) << packed.status();
    return *std::move(packed);
  }
  OwnedTensor Run(const Activations& x, const PackedWeight& w, DType dtype) {
    OwnedTensor y = OwnedTensor::Host(dtype, {x.tokens(), w.n()});
    backend_.Gemm(x, w, y.view);
    return y;
  }
  ReferenceBackend backend_;
};

TEST_F(ReferenceGemmTest, AccumulatorsAndOutputsFollowTheDefinition) {
  for (const Content content : {Content::kRandom, Content::kExtreme}) {
    for (const GemmCase& test : GemmCases()) {
      if (test.n > 16) continue;  // larger N adds nothing for an oracle that has no tiles
      SCOPED_TRACE(test.ToString());
      const QuantizedWeight w = test.Weight(1, content);
      const std::unique_ptr<PackedWeight> packed = Pack(w);
      const OwnedActivations rows = RandomActivations(test.format.scheme, 3, test.k, 2, content);
      const Activations x = rows.view();
      const OwnedTensor y = Run(x, *packed, DType::kF32);
      const OwnedTensor rounded = Run(x, *packed, DType::kBF16);
      for (int64_t m = 0; m < 3; ++m) {
        for (int64_t n = 0; n < test.n; ++n) {
          const float value = y.view.row<float>(m)[n];
          const Naive naive = NaiveOutput(x, w, m, n);
          ASSERT_NEAR(value, naive.value, 1e-5 * naive.magnitude + 1e-30);
          ASSERT_EQ(rounded.view.row<BFloat16>(m)[n].bits, BFloat16(value).bits);
        }
      }
      if (test.format.scheme != Scheme::kInteger) continue;
      const OwnedTensor acc = Run(x, *packed, DType::kI32);
      for (int64_t m = 0; m < 3; ++m) {
        for (int64_t n = 0; n < test.n; ++n) {
          ASSERT_EQ(acc.view.row<int32_t>(m)[n], NaiveAccumulator(x, w, m, n));
          const float c = w.channel_scales.data<float>()[n];
          const float a = x.scales.data<float>()[m];
          ASSERT_EQ(y.view.row<float>(m)[n],
                    (static_cast<float>(acc.view.row<int32_t>(m)[n]) * c) * a);
        }
      }
    }
  }
}

TEST_F(ReferenceGemmTest, ExtremeContentReachesTheEdgeOfInt32) {
  const GemmCase test{.format = {.scale_width = ScaleWidth::kWide, .bits = 4, .group_size = 128},
                      .n = 2,
                      .k = 1024};
  const OwnedActivations x = RandomActivations(Scheme::kInteger, 2, test.k, 3, Content::kExtreme);
  const OwnedTensor acc = Run(x.view(), *Pack(test.Weight(3, Content::kExtreme)), DType::kI32);
  EXPECT_GT(acc.view.row<int32_t>(0)[0], 2147000000);   // -127 times -8
  EXPECT_LT(acc.view.row<int32_t>(1)[0], -2147000000);  // 127 times -8
}

TEST_F(ReferenceGemmTest, BrokenCertificateIsCaught) {
  QuantizedWeight w = RandomWeight({.scale_width = ScaleWidth::kWide, .bits = 4, .group_size = 128},
                                   1, 1024, 3, Content::kExtreme);
  for (int j = 0; j < 8; ++j) w.group_scales.row<int16_t>(0)[j] = 4096;
  const OwnedActivations x = RandomActivations(Scheme::kInteger, 1, 1024, 3, Content::kExtreme);
  const std::unique_ptr<PackedWeight> packed = Pack(w);
  EXPECT_DEATH(Run(x.view(), *packed, DType::kI32), "breaks the overflow certificate");
}

TEST_F(ReferenceGemmTest, StackedPartsOfDifferentFormatsStandSideBySide) {
  const std::vector<QuantizedWeight> parts = {
      RandomWeight({.scale_width = ScaleWidth::kFolded, .bits = 4, .group_size = 64}, 5, 192, 1),
      RandomWeight({.scheme = Scheme::kFloat, .bits = 4, .group_size = 32}, 3, 192, 2),
      RandomWeight({.scale_width = ScaleWidth::kWide, .bits = 8, .group_size = 192}, 4, 192, 3)};
  absl::StatusOr<std::unique_ptr<PackedWeight>> packed = backend_.Prepack(parts);
  ASSERT_TRUE(packed.ok()) << packed.status();
  EXPECT_EQ((*packed)->n(), 12);
  EXPECT_EQ((*packed)->bytes(), parts[0].bytes() + parts[1].bytes() + parts[2].bytes());
  const OwnedActivations x = RandomActivations(Scheme::kInteger, 7, 192, 4);
  const OwnedTensor y = Run(x.view(), **packed, DType::kF32);
  int64_t begin = 0;
  for (const QuantizedWeight& part : parts) {
    const OwnedTensor alone = Run(x.view(), *Pack(part), DType::kF32);
    EXPECT_TRUE(BitwiseEqual(y.view.Cols(begin, begin + part.n), alone.view));
    begin += part.n;
  }
}

TEST_F(ReferenceGemmTest, PartsThatCannotStackAreRefused) {
  const QuantizedWeight a = RandomWeight({.group_size = 64}, 2, 64, 1);
  const QuantizedWeight b = RandomWeight({.group_size = 64}, 2, 128, 1);
  const QuantizedWeight c = RandomWeight({.scheme = Scheme::kNone}, 2, 64, 1);
  const std::vector<QuantizedWeight> depths = {a, b};
  const std::vector<QuantizedWeight> schemes = {a, c};
  EXPECT_EQ(backend_.Prepack(depths).status().message(),
            "stacked weights have in-features 64 and 128; they must be equal");
  EXPECT_EQ(backend_.Prepack(schemes).status().message(),
            "a weight of format integer folded W4 g64 is stacked on one of none; quantise all of "
            "them or none");
  EXPECT_FALSE(backend_.Prepack({}).ok());
}

TEST_F(ReferenceGemmTest, RowSliceEqualsTheColumnsOfTheWhole) {
  for (const GemmCase& test : GemmCases()) {
    if (test.n != 16) continue;
    SCOPED_TRACE(test.ToString());
    const QuantizedWeight w = test.Weight(5, Content::kRandom);
    const OwnedActivations x = RandomActivations(test.format.scheme, 4, test.k, 6);
    const OwnedTensor whole = Run(x.view(), *Pack(w), DType::kF32);
    const OwnedTensor slice = Run(x.view(), *Pack(w.RowSlice(3, 12)), DType::kF32);
    EXPECT_TRUE(BitwiseEqual(slice.view, whole.view.Cols(3, 12)));
  }
}

TEST_F(ReferenceGemmTest, GroupedGemmIsOneGemmPerExpert) {
  const GemmCase test{.format = {.group_size = 32}, .n = 5, .k = 96};
  std::vector<std::unique_ptr<PackedWeight>> owned;
  std::vector<const PackedWeight*> experts;
  for (int e = 0; e < 8; ++e) {
    owned.push_back(Pack(test.Weight(100 + e, Content::kRandom)));
    experts.push_back(owned.back().get());
  }
  for (const std::vector<int32_t>& offsets : ExpertRowOffsets()) {
    const int64_t tokens = offsets.back() + 2;  // the last two rows belong to nobody
    const OwnedActivations x = RandomActivations(Scheme::kInteger, tokens, test.k, 7);
    const OwnedTensor row_offsets = OwnedTensor::Host(DType::kI32, {9});
    std::copy(offsets.begin(), offsets.end(), row_offsets.view.data<int32_t>());
    const OwnedTensor y = RandomTensor(DType::kBF16, {tokens, test.n}, 8);
    const OwnedTensor before = RandomTensor(DType::kBF16, {tokens, test.n}, 8);
    backend_.GroupedGemm(x.view(), experts, row_offsets.view, y.view);
    for (int e = 0; e < 8; ++e) {
      const OwnedTensor alone =
          Run(x.view().Rows(offsets[e], offsets[e + 1]), *experts[e], DType::kBF16);
      EXPECT_TRUE(BitwiseEqual(y.view.Rows(offsets[e], offsets[e + 1]), alone.view));
    }
    EXPECT_TRUE(
        BitwiseEqual(y.view.Rows(tokens - 2, tokens), before.view.Rows(tokens - 2, tokens)));
  }
}

}  // namespace
}  // namespace intermix
