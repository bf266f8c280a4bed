// The overflow certificate: at its edge, one beyond it, and against real accumulators.
#include <cstdlib>
#include <memory>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/quant/integer_scale.h"
#include "tests/testing/compare.h"
#include "tests/testing/gemm_cases.h"

namespace intermix {
namespace {

// A row of K equal codes in groups of 32 under equal scales.
QuantizedWeight FlatRow(const WeightFormat& format, int64_t k, int code, int16_t scale) {
  QuantizedWeight w = RandomWeight(format, 1, k, 1);
  for (int64_t i = 0; i < k; ++i) {
    if (format.bits == 8) {
      w.codes.row<int8_t>(0)[i] = static_cast<int8_t>(code);
    } else {
      w.codes.row<uint8_t>(0)[i / 2] = static_cast<uint8_t>((code & 0xF) * 0x11);
    }
  }
  for (int64_t j = 0; j < w.num_groups(); ++j) w.group_scales.row<int16_t>(0)[j] = scale;
  return w;
}

constexpr WeightFormat kWide4{.scale_width = ScaleWidth::kWide, .bits = 4, .group_size = 32};
constexpr WeightFormat kWide8{.scale_width = ScaleWidth::kWide, .bits = 8, .group_size = 32};
constexpr WeightFormat kFolded4{.scale_width = ScaleWidth::kFolded, .bits = 4, .group_size = 32};

TEST(CertificateTest, HoldsAtItsEdgeAndNotOneBeyond) {
  // 128 codes of -8 under I = 16513: 127 * 1024 * 16513 = 2147482624.
  EXPECT_TRUE(VerifyCertificate(FlatRow(kWide4, 128, -8, 16513), "w").ok());
  EXPECT_TRUE(VerifyCertificate(FlatRow(kWide4, 128, -8, -16513), "w").ok());
  const absl::Status broken = VerifyCertificate(FlatRow(kWide4, 128, -8, 16514), "model.w");
  EXPECT_EQ(broken.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(broken.message(),
            "model.w: row 0 breaks the overflow certificate: 127 * sum |I * q| = 2147612672 is "
            "more than 2147483647; quantise it again");
  EXPECT_FALSE(VerifyCertificate(FlatRow(kWide4, 128, -8, -16514), "w").ok());
}

TEST(CertificateTest, ExactlyTheLargestSumHolds) {
  // 16909320 is the largest legal sum of |I * q|: 32 codes of 127 under I = 4160, and 2 * 1140
  // more.
  QuantizedWeight w = FlatRow(kWide8, 64, 127, 4160);
  for (int64_t k = 32; k < 64; ++k) w.codes.row<int8_t>(0)[k] = 0;
  w.codes.row<int8_t>(0)[40] = -1;
  w.group_scales.row<int16_t>(0)[1] = -3080;
  ASSERT_EQ(32 * 127 * 4160 + 3080, 16909320);
  EXPECT_TRUE(VerifyCertificate(w, "w").ok());
  w.group_scales.row<int16_t>(0)[1] = -3081;
  EXPECT_FALSE(VerifyCertificate(w, "w").ok());
}

TEST(CertificateTest, TheSumIsThatOfEveryCode) {
  for (const int bits : {4, 8}) {
    for (const int64_t group : {32, 128, 1056}) {
      const int64_t k = group == 1056 ? group : 8 * group;
      WeightFormat format = bits == 4 ? kWide4 : kWide8;
      format.group_size = group;
      QuantizedWeight w = RandomWeight(format, 1, k, 3, Content::kExtreme);
      int64_t sum = 0;
      for (int64_t j = 0; j < w.num_groups(); ++j) w.group_scales.row<int16_t>(0)[j] = 32767;
      for (int64_t i = 0; i < k; ++i) sum += 32767 * std::abs(CodeAt(w, 0, i));
      const absl::Status broken = VerifyCertificate(w, "w");
      EXPECT_THAT(std::string(broken.message()),
                  ::testing::HasSubstr(" = " + std::to_string(127 * sum) + " is"))
          << bits << " bits, groups of " << group;
    }
  }
}

TEST(CertificateTest, TheBrokenRowIsNamed) {
  QuantizedWeight w = RandomWeight(kWide4, 5, 128, 2, Content::kExtreme);
  EXPECT_TRUE(VerifyCertificate(w, "w").ok());
  for (int64_t j = 0; j < 4; ++j) w.group_scales.row<int16_t>(3)[j] = -32768;
  const absl::Status broken = VerifyCertificate(w, "w");
  EXPECT_TRUE(std::string(broken.message()).starts_with("w: row 3 breaks")) << broken;
  EXPECT_TRUE(VerifyCertificate(w.RowSlice(0, 3), "w").ok());
}

TEST(CertificateTest, FoldedScalesHaveTheirOwnRange) {
  EXPECT_TRUE(VerifyCertificate(FlatRow(kFolded4, 128, -8, 15), "w").ok());
  EXPECT_EQ(VerifyCertificate(FlatRow(kFolded4, 128, 1, 16), "w").message(),
            "w: row 0 has group scale 16, but folded scales are 0 to 15; quantise it again");
  EXPECT_FALSE(VerifyCertificate(FlatRow(kFolded4, 128, 1, -1), "w").ok());
  WeightFormat folded8 = kFolded4;
  folded8.bits = 8;
  EXPECT_TRUE(VerifyCertificate(FlatRow(folded8, 128, 8, 15), "w").ok());
  EXPECT_EQ(VerifyCertificate(FlatRow(folded8, 128, -9, 15), "w").message(),
            "w: row 0 has code * group scale = 135 in magnitude, but folded products are at most "
            "120; quantise it again");
}

TEST(CertificateTest, SchemesWithoutIntegerScalesNeedNone) {
  EXPECT_TRUE(VerifyCertificate(RandomWeight({.scheme = Scheme::kFloat}, 2, 128, 3), "w").ok());
  EXPECT_TRUE(VerifyCertificate(RandomWeight({.scheme = Scheme::kNone}, 2, 128, 3), "w").ok());
}

TEST(CertificateTest, SharedTestWeightsAreCertified) {
  for (const GemmCase& test : GemmCases()) {
    for (const Content content : {Content::kRandom, Content::kExtreme}) {
      const absl::Status s = VerifyCertificate(test.Weight(4, content), test.ToString());
      EXPECT_TRUE(s.ok()) << s;
    }
  }
}

TEST(DequantizeTest, CodesTimesScales) {
  QuantizedWeight w = FlatRow(kWide4, 64, -3, -7);
  w.channel_scales.data<float>()[0] = 0.125f;
  w.group_scales.row<int16_t>(0)[1] = 2;
  const OwnedTensor restored = Dequantize(w);
  EXPECT_EQ(restored.view.row<float>(0)[0], 2.625f);
  EXPECT_EQ(restored.view.row<float>(0)[63], -0.75f);
  OwnedTensor weight = OwnedTensor::Host(DType::kF32, {1, 64});
  EXPECT_EQ(SquaredError(weight.view, w), 32 * 2.625 * 2.625 + 32 * 0.75 * 0.75);
}

TEST(WeightTest, FormatsNameThemselves) {
  EXPECT_EQ(kFolded4.ToString(), "integer folded W4 g32");
  EXPECT_EQ(kWide8.ToString(), "integer wide W8 g32");
  EXPECT_EQ((WeightFormat{.scheme = Scheme::kFloat, .group_size = 64}.ToString()), "float W4 g64");
  EXPECT_EQ((WeightFormat{.scheme = Scheme::kNone}.ToString()), "none");
}

TEST(WeightTest, EvenCodesAreInTheLowNibble) {
  QuantizedWeight w = RandomWeight(kWide4, 1, 32, 5);
  w.codes.row<uint8_t>(0)[0] = 0x8F;
  w.codes.row<uint8_t>(0)[1] = 0x70;
  EXPECT_EQ(CodeAt(w, 0, 0), -1);
  EXPECT_EQ(CodeAt(w, 0, 1), -8);
  EXPECT_EQ(CodeAt(w, 0, 2), 0);
  EXPECT_EQ(CodeAt(w, 0, 3), 7);
}

TEST(WeightTest, UnpackedCodesAreTheCodesOneByOne) {
  for (const WeightFormat& format : {kWide4, kWide8}) {
    const QuantizedWeight w = RandomWeight(format, 3, 96, 6);
    std::vector<int8_t> codes(96);
    for (int64_t n = 0; n < 3; ++n) {
      UnpackCodes(w, n, codes.data());
      for (int64_t k = 0; k < 96; ++k) EXPECT_EQ(codes[k], CodeAt(w, n, k));
    }
  }
}

}  // namespace
}  // namespace intermix
