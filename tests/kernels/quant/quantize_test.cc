// The quantiser: error bounds, scale choices, amplifiers, odd rows, and the sentences of refusals.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/quant/integer_scale.h"
#include "tests/testing/compare.h"
#include "tests/testing/random.h"

namespace intermix {
namespace {

OwnedTensor Rows(const std::vector<std::vector<float>>& rows) {
  OwnedTensor tensor = OwnedTensor::Host(
      DType::kF32, {static_cast<int64_t>(rows.size()), static_cast<int64_t>(rows[0].size())});
  for (size_t n = 0; n < rows.size(); ++n) {
    std::copy(rows[n].begin(), rows[n].end(), tensor.view.row<float>(static_cast<int64_t>(n)));
  }
  return tensor;
}

QuantizedWeight MustQuantize(const Tensor& weight, const QuantSpec& spec) {
  absl::StatusOr<QuantizedWeight> result = Quantize(weight, spec, "w");
  CHECK(result.ok()) << result.status();
  const absl::Status certificate = VerifyCertificate(*result, "w");
  EXPECT_TRUE(certificate.ok()) << certificate;
  return *std::move(result);
}

std::string Refusal(const Tensor& weight, const QuantSpec& spec) {
  const absl::StatusOr<QuantizedWeight> result = Quantize(weight, spec, "model.w");
  EXPECT_EQ(result.status().code(), absl::StatusCode::kInvalidArgument);
  return std::string(result.status().message());
}

// Every legal combination of scheme, bits, width and group size.
std::vector<QuantSpec> AllSpecs() {
  std::vector<QuantSpec> specs;
  for (const int64_t g : {32, 64, 128, 0}) {
    for (const int bits : {4, 8}) {
      for (const bool clip : {false, true}) {
        specs.push_back(
            {.scheme = Scheme::kFloat, .bits = bits, .group_size = g, .clip_search = clip});
        specs.push_back(
            {.bits = bits, .group_size = g, .scales = ScaleChoice::kWide, .clip_search = clip});
        if (bits == 8) continue;
        specs.push_back({.group_size = g, .scales = ScaleChoice::kFolded, .clip_search = clip});
      }
    }
  }
  return specs;
}

// The scale of one group, q * scale being the weight.
double GroupScale(const QuantizedWeight& w, int64_t n, int64_t j) {
  const double scale = ElementAt(w.group_scales, n, j);
  return w.channel_scales.empty() ? scale : scale * ElementAt(w.channel_scales, n);
}

TEST(QuantizeTest, EveryCodeIsTheNearestOneForItsScale) {
  const OwnedTensor weight = RandomTensor(DType::kBF16, {6, 384}, 1, 0.02);
  for (const QuantSpec& spec : AllSpecs()) {
    const QuantizedWeight q = MustQuantize(weight.view, spec);
    SCOPED_TRACE(q.format.ToString());
    EXPECT_EQ(q.n, 6);
    EXPECT_EQ(q.k, 384);
    const double low = spec.bits == 4 ? -8 : -127;
    const double high = spec.bits == 4 ? 7 : 127;
    for (int64_t n = 0; n < q.n; ++n) {
      for (int64_t k = 0; k < q.k; ++k) {
        const double scale = GroupScale(q, n, k / q.format.group_size);
        const double ratio = ElementAt(weight.view, n, k) / scale;
        const double nearest = std::clamp(ratio, low, high);
        ASSERT_NEAR(CodeAt(q, n, k), nearest, 0.5 + 1e-4) << n << ", " << k;
      }
    }
  }
}

TEST(QuantizeTest, ScaleIsTheLargestMagnitudeOverTheLargestCode) {
  const OwnedTensor weight = RandomTensor(DType::kF32, {4, 256}, 2, 0.02);
  for (const int bits : {4, 8}) {
    const QuantSpec spec{.scheme = Scheme::kFloat, .bits = bits, .group_size = 64};
    const QuantizedWeight q = MustQuantize(weight.view, spec);
    for (int64_t n = 0; n < 4; ++n) {
      for (int64_t j = 0; j < 4; ++j) {
        float max = 0.0f;
        for (int64_t k = 0; k < 64; ++k) {
          max = std::max(max, std::fabs(weight.view.row<float>(n)[64 * j + k]));
        }
        EXPECT_NEAR(q.group_scales.row<float>(n)[j], max / (bits == 4 ? 7.0f : 127.0f),
                    1e-6f * max);
      }
    }
  }
}

TEST(QuantizeTest, FoldedProductsAreInt8Weights) {
  const OwnedTensor weight = RandomTensor(DType::kF32, {16, 1024}, 3);
  for (const int64_t g : {32, 64, 128, 0}) {
    const QuantizedWeight q =
        MustQuantize(weight.view, {.group_size = g, .scales = ScaleChoice::kFolded});
    int largest = 0;
    for (int64_t n = 0; n < q.n; ++n) {
      for (int64_t k = 0; k < q.k; ++k) {
        const int scale = q.group_scales.row<int16_t>(n)[k / q.format.group_size];
        ASSERT_GE(scale, 1);
        ASSERT_LE(scale, 15);
        largest = std::max(largest, std::abs(CodeAt(q, n, k) * scale));
      }
    }
    EXPECT_LE(largest, 120);
    EXPECT_GE(largest, 7 * 8);  // the largest group uses the whole range
  }
}

// Squared error relative to float scales, over Gaussian or heavy-tailed rows of a usual length.
double RelativeError(bool heavy_tails, const QuantSpec& spec) {
  Random random(4);
  OwnedTensor weight = OwnedTensor::Host(DType::kF32, {64, 4096});
  for (int64_t i = 0; i < weight.view.num_elements(); ++i) {
    weight.view.data<float>()[i] =
        static_cast<float>(heavy_tails ? random.StudentT4() : random.Gaussian());
  }
  const QuantSpec baseline{
      .scheme = Scheme::kFloat, .bits = spec.bits, .group_size = spec.group_size};
  return SquaredError(weight.view, MustQuantize(weight.view, spec)) /
         SquaredError(weight.view, MustQuantize(weight.view, baseline));
}

TEST(QuantizeTest, IntegerScalesCostWhatNumericsSays) {
  const auto folded = [](int64_t g) {
    return QuantSpec{.group_size = g, .scales = ScaleChoice::kFolded};
  };
  EXPECT_LE(RelativeError(false, folded(128)), 1.005);
  EXPECT_LE(RelativeError(false, folded(64)), 1.008);
  EXPECT_LE(RelativeError(true, folded(128)), 1.01);
  EXPECT_LE(RelativeError(true, folded(64)), 1.024);
  for (const int64_t g : {32, 64, 128}) {
    EXPECT_NEAR(RelativeError(false, {.group_size = g, .scales = ScaleChoice::kWide}), 1.0, 1e-3);
  }
}

TEST(QuantizeTest, FoldedAtThirtyTwoBeatsFloatAtOneHundredTwentyEight) {
  const OwnedTensor weight = RandomTensor(DType::kF32, {16, 4096}, 5);
  const double folded = SquaredError(
      weight.view, MustQuantize(weight.view, {.group_size = 32, .scales = ScaleChoice::kFolded}));
  const double coarse = SquaredError(
      weight.view, MustQuantize(weight.view, {.scheme = Scheme::kFloat, .group_size = 128}));
  EXPECT_LT(folded, coarse);
}

TEST(QuantizeTest, ClipSearchNeverLosesUnderFloatScales) {
  const OwnedTensor weight = RandomTensor(DType::kF32, {16, 1024}, 6);
  QuantSpec spec{.scheme = Scheme::kFloat};
  const double plain = SquaredError(weight.view, MustQuantize(weight.view, spec));
  spec.clip_search = true;
  EXPECT_LT(SquaredError(weight.view, MustQuantize(weight.view, spec)), 0.9 * plain);
}

TEST(QuantizeTest, AutoTakesFoldedWhereItIsAsGood) {
  const OwnedTensor smooth = RandomTensor(DType::kF32, {8, 4096}, 7);
  EXPECT_EQ(MustQuantize(smooth.view, {}).format.scale_width, ScaleWidth::kFolded);
  // Groups of very different size need more than four bits of scale.
  OwnedTensor rough = RandomTensor(DType::kF32, {8, 1024}, 7);
  for (int64_t n = 0; n < 8; ++n) {
    for (int64_t k = 128; k < 1024; ++k) rough.view.row<float>(n)[k] *= 0.02f;
  }
  EXPECT_EQ(MustQuantize(rough.view, {}).format.scale_width, ScaleWidth::kWide);
}

TEST(QuantizeTest, AutoFollowsTheOnePercentRule) {
  for (int trial = 0; trial < 20; ++trial) {
    OwnedTensor weight = RandomTensor(DType::kF32, {2, 512}, 100 + trial);
    const float small = 0.2f + 0.04f * static_cast<float>(trial);
    for (int64_t k = 0; k < 128; ++k) weight.view.row<float>(trial % 2)[k] *= small;
    const auto error = [&](ScaleChoice scales) {
      return SquaredError(weight.view,
                          MustQuantize(weight.view, {.group_size = 32, .scales = scales}));
    };
    const double ratio = error(ScaleChoice::kFolded) / error(ScaleChoice::kWide);
    if (std::fabs(ratio - 1.01) < 1e-5) continue;  // float sums inside, double ones here
    const QuantizedWeight chosen = MustQuantize(weight.view, {.group_size = 32});
    EXPECT_EQ(chosen.format.scale_width == ScaleWidth::kFolded, ratio <= 1.01) << ratio;
  }
}

TEST(QuantizeTest, ChannelAmplifierIsTheLargestPowerOfTwo) {
  const OwnedTensor weight = RandomTensor(DType::kF32, {8, 2048}, 8, 0.3);
  for (const int bits : {4, 8}) {
    const QuantizedWeight q =
        MustQuantize(weight.view, {.bits = bits, .scales = ScaleChoice::kWide});
    for (int64_t n = 0; n < q.n; ++n) {
      int exponent = 0;
      EXPECT_EQ(std::frexp(q.channel_scales.data<float>()[n], &exponent), 0.5f);
      // Twice the amplifier would break int16 or, as codes hardly change, the certificate.
      int64_t sum = 0;
      int largest = 0;
      for (int64_t k = 0; k < q.k; ++k) {
        const int scale = q.group_scales.row<int16_t>(n)[k / 128];
        largest = std::max(largest, scale);
        sum += scale * std::abs(CodeAt(q, n, k));
      }
      EXPECT_TRUE(2 * largest > 32767 || 2.02 * 127.0 * static_cast<double>(sum) > 2147483647.0);
    }
  }
}

TEST(QuantizeTest, OneGroupLosesNothingToItsIntegerScale) {
  const OwnedTensor weight = RandomTensor(DType::kF32, {4, 4096}, 9);
  for (const int bits : {4, 8}) {
    const QuantizedWeight wide =
        MustQuantize(weight.view, {.bits = bits, .group_size = 0, .scales = ScaleChoice::kWide});
    const QuantizedWeight exact =
        MustQuantize(weight.view, {.scheme = Scheme::kFloat, .bits = bits, .group_size = 0});
    EXPECT_TRUE(BitwiseEqual(wide.codes, exact.codes));
    EXPECT_TRUE(BitwiseEqual(Dequantize(wide).view, Dequantize(exact).view));
  }
}

TEST(QuantizeTest, LongRowsAtEightBitsStayCertified) {
  OwnedTensor flat = OwnedTensor::Host(DType::kF32, {1, 131072});
  for (int64_t k = 0; k < 131072; ++k) flat.view.row<float>(0)[k] = k % 2 == 0 ? 1.0f : -1.0f;
  for (const int64_t g : {32, 128, 0}) MustQuantize(flat.view, {.bits = 8, .group_size = g});
  OwnedTensor longer = OwnedTensor::Host(DType::kF32, {1, 139264});
  std::fill_n(longer.view.data<float>(), 139264, 1.0f);
  EXPECT_EQ(Refusal(longer.view, {.bits = 8}),
            "model.w: row 0 with in-features 139264 could overflow an int32 accumulator under any "
            "scale; use fewer bits");
  MustQuantize(longer.view, {.bits = 4});
}

TEST(QuantizeTest, PaperAmplifierIsUsedAsGiven) {
  const OwnedTensor weight = RandomTensor(DType::kF32, {4, 256}, 10, 0.05);
  const QuantizedWeight q =
      MustQuantize(weight.view, {.group_size = 64, .amplifier = {.kind = Amplifier::Kind::kFixed}});
  const QuantizedWeight exact =
      MustQuantize(weight.view, {.scheme = Scheme::kFloat, .group_size = 64});
  EXPECT_EQ(q.format.scale_width, ScaleWidth::kWide);
  for (int64_t n = 0; n < 4; ++n) {
    EXPECT_EQ(q.channel_scales.data<float>()[n], 1.0f / 1024.0f);
    for (int64_t j = 0; j < 4; ++j) {
      EXPECT_EQ(q.group_scales.row<int16_t>(n)[j],
                std::max(1.0f, std::rint(exact.group_scales.row<float>(n)[j] * 1024.0f)));
    }
  }
}

TEST(QuantizeTest, HeuristicAmplifierLiftsTheSmallestScaleToOne) {
  OwnedTensor weight = RandomTensor(DType::kF32, {4, 256}, 11);
  std::fill_n(weight.view.row<float>(2) + 64, 64, 7.0f * 0x1.8p-6f);  // s = 1.5 / 64
  std::fill_n(weight.view.row<float>(3), 64, 0.0f);                   // a zero group does not count
  const QuantizedWeight q = MustQuantize(
      weight.view, {.group_size = 64, .amplifier = {.kind = Amplifier::Kind::kHeuristic}});
  for (int64_t n = 0; n < 4; ++n) EXPECT_EQ(q.channel_scales.data<float>()[n], 0x1p-6f);
  EXPECT_EQ(q.group_scales.row<int16_t>(3)[0], 0);
}

TEST(QuantizeTest, UnfitFixedAmplifiersAreRefused) {
  const OwnedTensor weight = RandomTensor(DType::kF32, {1, 4096}, 12, 10.0);
  const auto amplifier = [](int64_t value) {
    return QuantSpec{.amplifier = {.kind = Amplifier::Kind::kFixed, .value = value}};
  };
  EXPECT_TRUE(Refusal(weight.view, amplifier(int64_t{1} << 20))
                  .starts_with("model.w: amplifier 2^20 makes row 0's largest integer scale "));
  EXPECT_TRUE(Refusal(weight.view, amplifier(4096))
                  .starts_with("model.w: amplifier 2^12 makes row 0's worst accumulator "));
  EXPECT_EQ(Refusal(weight.view, amplifier(1000)),
            "amplifier 1000 is not a power of two; use channel, heuristic, or a number like 1024");
}

TEST(QuantizeTest, OddRowsKeepTheirShape) {
  const float huge = 3e38f;
  std::vector<std::vector<float>> rows(6, std::vector<float>(256, 0.0f));
  for (int k = 0; k < 256; ++k) {
    const float sign = k % 3 == 0 ? -1.0f : 1.0f;
    rows[1][k] = sign * 1e-40f;                      // subnormal: counts as zero
    rows[2][k] = sign * huge;                        // near the largest float
    rows[3][k] = sign * (k < 64 ? 1000.0f : 1e-6f);  // one huge group, tiny others
    rows[4][k] = sign * (k < 64 ? huge : 1e-30f);    // farther apart than float's exponent range
    rows[5][k] = sign * 1e-29f;                      // tiny, but not zero
  }
  const OwnedTensor weight = Rows(rows);
  for (QuantSpec spec : AllSpecs()) {
    if (spec.group_size == 128) continue;
    const QuantizedWeight q = MustQuantize(weight.view, spec);
    SCOPED_TRACE(q.format.ToString());
    const OwnedTensor restored = Dequantize(q);
    for (int64_t k = 0; k < 256; ++k) {
      EXPECT_EQ(ElementAt(restored.view, 0, k), 0.0);
      EXPECT_EQ(ElementAt(restored.view, 1, k), 0.0);
      EXPECT_NEAR(ElementAt(restored.view, 2, k) / rows[2][k], 1.0, 0.07);
      EXPECT_NEAR(ElementAt(restored.view, 5, k) / rows[5][k], 1.0, 0.07);
      if (k >= 64) continue;
      EXPECT_NEAR(ElementAt(restored.view, 3, k) / rows[3][k], 1.0, 0.07);
      EXPECT_NEAR(ElementAt(restored.view, 4, k) / rows[4][k], 1.0, 0.07);
    }
    if (spec.scheme != Scheme::kInteger) continue;
    for (int64_t j = 0; j < q.num_groups(); ++j) {
      EXPECT_EQ(ElementAt(q.group_scales, 0, j), 0.0);
      for (const int64_t n : {2, 3, 4, 5}) EXPECT_GE(ElementAt(q.group_scales, n, j), 1.0);
    }
  }
}

TEST(QuantizeTest, APowerOfTwoChangesTheScalesOnly) {
  const OwnedTensor weight = RandomTensor(DType::kF32, {4, 1024}, 17);
  for (const int exponent : {-95, 120}) {
    OwnedTensor scaled = RandomTensor(DType::kF32, {4, 1024}, 17);
    for (int64_t i = 0; i < 4 * 1024; ++i) {
      scaled.view.data<float>()[i] = std::ldexp(scaled.view.data<float>()[i], exponent);
    }
    for (const QuantSpec& spec : AllSpecs()) {
      const QuantizedWeight a = MustQuantize(weight.view, spec);
      const QuantizedWeight b = MustQuantize(scaled.view, spec);
      EXPECT_TRUE(BitwiseEqual(a.codes, b.codes)) << a.format.ToString();
      if (spec.scheme != Scheme::kInteger) continue;
      EXPECT_TRUE(BitwiseEqual(a.group_scales, b.group_scales)) << a.format.ToString();
      EXPECT_EQ(std::ldexp(ElementAt(a.channel_scales, 0), exponent),
                ElementAt(b.channel_scales, 0));
    }
  }
}

TEST(QuantizeTest, SixteenBitWeightsAreReadExactly) {
  const OwnedTensor half = RandomTensor(DType::kF16, {3, 128}, 13);
  const OwnedTensor brain = RandomTensor(DType::kBF16, {3, 128}, 13);
  for (const Tensor& weight : {half.view, brain.view}) {
    OwnedTensor wide = OwnedTensor::Host(DType::kF32, {3, 128});
    for (int64_t i = 0; i < 3 * 128; ++i) {
      wide.view.data<float>()[i] = static_cast<float>(ElementAt(weight, i / 128, i % 128));
    }
    const QuantizedWeight a = MustQuantize(weight, {});
    const QuantizedWeight b = MustQuantize(wide.view, {});
    EXPECT_TRUE(BitwiseEqual(a.codes, b.codes));
    EXPECT_TRUE(BitwiseEqual(a.group_scales, b.group_scales));
    EXPECT_TRUE(BitwiseEqual(a.channel_scales, b.channel_scales));
    const QuantizedWeight kept = MustQuantize(weight, {.scheme = Scheme::kNone});
    EXPECT_EQ(kept.codes.dtype(), weight.dtype() == DType::kBF16 ? DType::kBF16 : DType::kF32);
    EXPECT_TRUE(BitwiseEqual(Dequantize(kept).view, wide.view));
    EXPECT_EQ(SquaredError(weight, kept), 0.0);
  }
}

TEST(QuantizeTest, StridedRowsAreReadInPlace) {
  const OwnedTensor whole = RandomTensor(DType::kBF16, {4, 320}, 14);
  const Tensor slice = whole.view.Cols(64, 320);
  OwnedTensor copy = OwnedTensor::Host(DType::kBF16, {4, 256});
  for (int64_t n = 0; n < 4; ++n) {
    std::copy_n(slice.row<BFloat16>(n), 256, copy.view.row<BFloat16>(n));
  }
  EXPECT_TRUE(BitwiseEqual(MustQuantize(slice, {}).codes, MustQuantize(copy.view, {}).codes));
}

TEST(QuantizeTest, RefusalsNameTheCureForTheShape) {
  const OwnedTensor a = RandomTensor(DType::kF32, {2, 576}, 15);
  EXPECT_EQ(Refusal(a.view, {}),
            "model.w: in-features 576 is not a multiple of group size 128; use 64");
  const OwnedTensor b = RandomTensor(DType::kF32, {2, 96}, 15);
  EXPECT_EQ(Refusal(b.view, {.group_size = 64}),
            "model.w: in-features 96 is not a multiple of group size 64; use 32");
  const OwnedTensor c = RandomTensor(DType::kF32, {2, 45}, 15);
  EXPECT_EQ(Refusal(c.view, {.group_size = 32}),
            "model.w: in-features 45 is not a multiple of group size 32; use 0 (one group over "
            "the whole row)");
  EXPECT_EQ(Refusal(c.view, {.group_size = 0}),
            "model.w: in-features 45 is odd, but 4-bit codes are packed in pairs; use 8 bits");
  MustQuantize(c.view, {.bits = 8, .group_size = 0});
}

TEST(QuantizeTest, NanAndInfinityAreRefused) {
  for (const float bad : {std::nanf(""), -std::numeric_limits<float>::infinity()}) {
    OwnedTensor weight = RandomTensor(DType::kF32, {3, 128}, 16);
    weight.view.row<float>(1)[77] = bad;
    EXPECT_EQ(Refusal(weight.view, {}),
              "model.w: row 1 holds a NaN or infinity; repair the checkpoint before quantising");
  }
}

TEST(QuantSpecTest, IllegalOptionsNameTheLegalOnes) {
  const auto message = [](const QuantSpec& spec) { return std::string(spec.Validate().message()); };
  EXPECT_EQ(message({.bits = 3}), "bits 3 is not supported; use 4 or 8");
  EXPECT_EQ(message({.group_size = 48}),
            "group size 48 is not supported; use 32, 64, 128, or 0 for one group over the whole "
            "row");
  EXPECT_EQ(message({.bits = 8, .scales = ScaleChoice::kFolded}),
            "folded scales need 4 bits, not 8; use wide or auto scales with 8 bits");
  EXPECT_EQ(message({.scales = ScaleChoice::kFolded, .amplifier = {Amplifier::Kind::kFixed, 1024}}),
            "folded scales choose their own amplifier; use amplifier channel, or wide scales");
  EXPECT_TRUE(QuantSpec{}.Validate().ok());
  EXPECT_TRUE((QuantSpec{.scheme = Scheme::kNone, .bits = 3}.Validate().ok()));
}

}  // namespace
}  // namespace intermix
