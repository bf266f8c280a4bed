// Every linear layer of the shared list, on every instruction set and number of threads, equals
// ReferenceBackend bit for bit: accumulators, float32 and bfloat16 outputs.
#include <algorithm>
#include <cstring>

#include "tests/parity/parity_test_base.h"
#include "tests/testing/gemm_cases.h"

namespace intermix {
namespace {

constexpr int64_t kPanelRows = 65;  // more than any kernel takes without unpacking a panel

class GemmParityTest : public ParityTest {
 protected:
  // All rows of `x`, and the first m of them for every m in GemmTokens(): a row may not depend on
  // which other rows there are, so one reference run serves them all.
  void ExpectSameGemm(const std::vector<QuantizedWeight>& parts, const Activations& x,
                      DType output) {
    const std::unique_ptr<PackedWeight> weight = Pack(reference(), parts);
    const OwnedTensor expected = OwnedTensor::Host(output, {x.tokens(), weight->n()});
    reference().Gemm(x, *weight, expected.view);
    std::vector<int64_t> counts = {x.tokens()};
    for (const int64_t tokens : GemmTokens()) {
      if (tokens < x.tokens()) counts.push_back(tokens);
    }
    for (size_t i = 0; i < backends().size(); ++i) {
      const std::unique_ptr<PackedWeight> packed = Pack(*backends()[i], parts);
      for (const int64_t tokens : counts) {
        const OwnedTensor actual = OwnedTensor::Host(output, {tokens, weight->n()});
        backends()[i]->Gemm(x.Rows(0, tokens), *packed, actual.view);
        ASSERT_TRUE(BitwiseEqual(actual.view, expected.view.Rows(0, tokens)))
            << i + 1 << " threads, " << tokens << " tokens";
      }
    }
  }
};

// The other outputs round what float32 shows, or show what it was made from: fewer rows do.
TEST_P(GemmParityTest, EveryFormatShapeAndOutput) {
  for (const GemmCase& test : GemmCases()) {
    const QuantizedWeight weight = test.Weight(1, Content::kRandom);
    const OwnedActivations x =
        RandomActivations(test.format.scheme, GemmTokens().back(), test.k, 2);
    for (const DType output : GemmOutputs(test.format)) {
      SCOPED_TRACE(test.ToString() + " to " + std::string(Name(output)));
      const int64_t rows = output == DType::kF32 ? x.view().tokens() : 17;
      ExpectSameGemm({weight}, x.view().Rows(0, rows), output);
      if (HasFailure()) return;
    }
  }
}

TEST_P(GemmParityTest, ExtremeCodesScalesAndNanRows) {
  for (const GemmCase& test : GemmCases()) {
    const QuantizedWeight weight = test.Weight(3, Content::kExtreme);
    const OwnedActivations x =
        RandomActivations(test.format.scheme, kPanelRows, test.k, 4, Content::kExtreme);
    for (const DType output : GemmOutputs(test.format)) {
      SCOPED_TRACE(test.ToString() + " to " + std::string(Name(output)));
      ExpectSameGemm({weight}, x.view(), output);
      if (HasFailure()) return;
    }
  }
}

// Long K, so that the panels and their carried sums are taken more than once.
TEST_P(GemmParityTest, SeveralPanelsOfK) {
  for (const int64_t group_size : {32, 64, 128, 2112}) {
    for (const Scheme scheme : {Scheme::kInteger, Scheme::kFloat}) {
      for (const int bits : {4, 8}) {
        for (const ScaleWidth width : {ScaleWidth::kFolded, ScaleWidth::kWide}) {
          if (width == ScaleWidth::kFolded && (bits == 8 || scheme == Scheme::kFloat)) continue;
          const int64_t k = group_size == 2112 ? 2112 : 2176;
          const WeightFormat format{
              .scheme = scheme, .scale_width = width, .bits = bits, .group_size = group_size};
          SCOPED_TRACE(format.ToString());
          for (const Content content : {Content::kRandom, Content::kExtreme}) {
            const QuantizedWeight weight = RandomWeight(format, 70, k, 5, content);
            const OwnedActivations x = RandomActivations(scheme, kPanelRows, k, 6, content);
            ExpectSameGemm({weight}, x.view(), DType::kF32);
            if (HasFailure()) return;
          }
        }
      }
    }
  }
}

// Every height of a tile that streams weights, and of one that panels take.
TEST_P(GemmParityTest, EveryNumberOfFewRows) {
  constexpr int64_t kMostRows = 68;
  for (const WeightFormat& format :
       {WeightFormat{.scale_width = ScaleWidth::kFolded, .bits = 4, .group_size = 64},
        WeightFormat{.scale_width = ScaleWidth::kWide, .bits = 8, .group_size = 64},
        WeightFormat{.scheme = Scheme::kFloat, .bits = 4, .group_size = 64}}) {
    SCOPED_TRACE(format.ToString());
    const QuantizedWeight weight = RandomWeight(format, 40, 192, 11);
    const OwnedActivations x = RandomActivations(format.scheme, kMostRows, 192, 12);
    const OwnedTensor expected = OwnedTensor::Host(DType::kF32, {kMostRows, 40});
    reference().Gemm(x.view(), *Pack(reference(), {weight}), expected.view);
    const std::unique_ptr<PackedWeight> packed = Pack(*backends()[0], {weight});
    for (int64_t rows = 1; rows <= kMostRows; ++rows) {
      const OwnedTensor actual = OwnedTensor::Host(DType::kF32, {rows, 40});
      backends()[0]->Gemm(x.view().Rows(0, rows), *packed, actual.view);
      ASSERT_TRUE(BitwiseEqual(actual.view, expected.view.Rows(0, rows))) << rows << " rows";
    }
  }
}

// Group sizes that are no multiple of the kernels' 8 in-features are padded group by group.
TEST_P(GemmParityTest, GroupsThatNeedPadding) {
  for (const int64_t group_size : {2, 6, 10, 12, 36}) {
    for (const int bits : {4, 8}) {
      for (const Scheme scheme : {Scheme::kInteger, Scheme::kFloat}) {
        const WeightFormat format{.scheme = scheme,
                                  .scale_width = ScaleWidth::kWide,
                                  .bits = bits,
                                  .group_size = group_size};
        SCOPED_TRACE(format.ToString());
        const QuantizedWeight weight = RandomWeight(format, 21, 5 * group_size, 7);
        const OwnedActivations x = RandomActivations(scheme, 17, 5 * group_size, 8);
        ExpectSameGemm({weight}, x.view(), DType::kF32);
        if (HasFailure()) return;
      }
    }
  }
}

TEST_P(GemmParityTest, StackedPartsOfDifferentFormats) {
  const std::vector<QuantizedWeight> parts = {
      RandomWeight({.scale_width = ScaleWidth::kFolded, .bits = 4, .group_size = 64}, 37, 192, 1),
      RandomWeight({.scheme = Scheme::kFloat, .bits = 4, .group_size = 32}, 3, 192, 2),
      RandomWeight({.scale_width = ScaleWidth::kWide, .bits = 8, .group_size = 192}, 20, 192, 3),
      RandomWeight({.scale_width = ScaleWidth::kWide, .bits = 4, .group_size = 64}, 16, 192, 4)};
  const OwnedActivations x = RandomActivations(Scheme::kInteger, 17, 192, 5);
  ExpectSameGemm(parts, x.view(), DType::kF32);
  ExpectSameGemm(parts, x.view(), DType::kBF16);
}

TEST_P(GemmParityTest, StridedRowsInAndOutAndNothingElseIsWritten) {
  constexpr int64_t kRows = 19;
  for (const Scheme scheme : {Scheme::kInteger, Scheme::kFloat, Scheme::kNone}) {
    for (const DType output : GemmOutputs({.scheme = scheme})) {
      const WeightFormat format{
          .scheme = scheme, .scale_width = ScaleWidth::kWide, .bits = 4, .group_size = 32};
      SCOPED_TRACE(format.ToString() + " to " + std::string(Name(output)));
      const std::vector<QuantizedWeight> parts = {RandomWeight(format, 21, 64, 9)};
      const OwnedActivations wide_x = RandomActivations(scheme, kRows, 64 + 16, 10);
      Activations x = wide_x.view();
      x.values = x.values.Cols(8, 8 + 64);
      const auto run = [&](Backend& backend, const Tensor& y) {
        std::memset(y.raw(), 0x5A, static_cast<size_t>(y.bytes()));
        backend.Gemm(x, *Pack(backend, parts), y.Cols(3, 3 + 21));
        backend.Gemm(x.Rows(0, 2), *Pack(backend, parts), y.Rows(1, 3).Cols(3, 3 + 21));
      };
      ExpectSame(output, {kRows, 30}, run);
    }
  }
}

TEST_P(GemmParityTest, PartsThatCannotStackAreRefusedInTheSameWords) {
  const QuantizedWeight a = RandomWeight({.group_size = 64}, 2, 64, 1);
  const QuantizedWeight b = RandomWeight({.group_size = 64}, 2, 128, 1);
  const QuantizedWeight c = RandomWeight({.scheme = Scheme::kNone}, 2, 64, 1);
  for (const std::vector<QuantizedWeight>& parts :
       std::vector<std::vector<QuantizedWeight>>{{}, {a, b}, {a, c}}) {
    const absl::Status expected = reference().Prepack(parts).status();
    EXPECT_FALSE(expected.ok());
    EXPECT_EQ(backends()[0]->Prepack(parts).status(), expected);
  }
}

TEST_P(GemmParityTest, GroupsThatTheKernelsCannotReadAreRefused) {
  const QuantizedWeight odd = RandomWeight({.bits = 4, .group_size = 5}, 2, 10, 1);
  EXPECT_EQ(backends()[0]->Prepack({&odd, 1}).status().message(),
            "a group of 5 in-features ends inside a byte of 4-bit codes; use an even group size");
  const int64_t k = (int64_t{1} << 17) + 8;
  const QuantizedWeight lengthy = RandomWeight({.bits = 4, .group_size = k}, 1, k, 1);
  EXPECT_EQ(backends()[0]->Prepack({&lengthy, 1}).status().message(),
            "groups of 131080 in-features are too long; the CPU kernels sum at most 131072");
}

TEST_P(GemmParityTest, PackedBytesAreNearTheCanonicalOnes) {
  const QuantizedWeight weight = RandomWeight({.bits = 4, .group_size = 128}, 256, 1024, 1);
  const std::unique_ptr<PackedWeight> packed = Pack(*backends()[0], {weight});
  EXPECT_EQ(packed->bytes(), weight.bytes());  // nothing is padded in such a shape
}

INSTANTIATE_TEST_SUITE_P(, GemmParityTest, AllIsas(), IsaName);

}  // namespace
}  // namespace intermix
