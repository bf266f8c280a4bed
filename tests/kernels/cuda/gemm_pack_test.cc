// Packing a weight for the GEMM kernels: every code and scale is where gemm_pack.h says, and what
// is padded is zero.
#include "kernels/cuda/gemm_pack.h"

#include <cstring>

#include "gtest/gtest.h"
#include "tests/testing/gemm_cases.h"
#include "tests/testing/random.h"

namespace intermix::cuda {
namespace {

template <typename T>
T Read(const GemmPack& pack, int64_t offset) {
  CHECK(offset >= 0 &&
        offset + static_cast<int64_t>(sizeof(T)) <= static_cast<int64_t>(pack.bytes.bytes()));
  T value;
  std::memcpy(&value, static_cast<const char*>(pack.bytes.data()) + offset, sizeof value);
  return value;
}

// The code of out feature n and in-feature k, read by the layout's description.
int PackedCode(const GemmPack& pack, int bits, int64_t n, int64_t k) {
  const int64_t unit_k = bits == 4 ? 64 : 32;
  const int64_t units = (pack.k + unit_k - 1) / unit_k;
  const int64_t g = n % 16 / 2;
  const int64_t t = k % 16 / 4;
  const int64_t half = k % 32 / 16;
  const int64_t lane_at = (n / 16 * units + k / unit_k) * 512 + (4 * g + t) * 16;
  if (bits == 8) return Read<int8_t>(pack, lane_at + half * 8 + n % 2 * 4 + k % 4);
  const int64_t step = k % 64 / 32;
  const uint32_t word = Read<uint32_t>(pack, lane_at + step * 8 + n % 2 * 4);
  const int nibble = static_cast<int>(word >> (8 * (k % 4) + 4 * half)) & 0xF;
  return pack.expert.mode == GemmMode::kFolded4 ? nibble - 8 : (nibble ^ 8) - 8;
}

double PackedScale(const GemmPack& pack, int64_t n, int64_t j) {
  const int64_t index = (n / 16 * pack.expert.num_groups + j) * 16 + n % 16;
  switch (ScaleBytes(pack.expert.mode)) {
    case 1:
      return Read<uint8_t>(pack, pack.scales_at + index);
    case 2:
      return Read<int16_t>(pack, pack.scales_at + index * 2);
    case 4:
      return Read<float>(pack, pack.scales_at + index * 4);
    default:
      return 1;  // kPlain8 has none
  }
}

double Multiplier(const GemmPack& pack, int64_t n) {
  return pack.multipliers_at < 0 ? 1 : Read<int16_t>(pack, pack.multipliers_at + n * 2);
}

TEST(GemmPackTest, EveryCodeAndScaleIsFoundWhereTheLayoutPutsIt) {
  for (const GemmCase& test : GemmCases()) {
    if (test.format.scheme == Scheme::kNone) continue;
    SCOPED_TRACE(test.ToString());
    const QuantizedWeight weight = test.Weight(1, Content::kRandom);
    const absl::StatusOr<GemmPack> pack = PackGemmWeight(weight);
    ASSERT_TRUE(pack.ok()) << pack.status();
    EXPECT_EQ(pack->expert.num_groups, weight.num_groups());
    EXPECT_EQ(CodeBits(pack->expert.mode), test.format.bits);
    EXPECT_EQ(SumsInFloat(pack->expert.mode), test.format.scheme == Scheme::kFloat);
    const int64_t padded_n = (test.n + 15) / 16 * 16;
    const int64_t unit_k = test.format.bits == 4 ? 64 : 32;
    const int64_t padded_k = (test.k + unit_k - 1) / unit_k * unit_k;
    for (int64_t n = 0; n < padded_n; ++n) {
      for (int64_t k = 0; k < padded_k; ++k) {
        const int code = n < test.n && k < test.k ? CodeAt(weight, n, k) : 0;
        ASSERT_EQ(PackedCode(*pack, test.format.bits, n, k), code) << n << ", " << k;
      }
    }
    for (int64_t n = 0; n < test.n; ++n) {
      for (int64_t j = 0; j < weight.num_groups(); ++j) {
        const double scale = test.format.scheme == Scheme::kFloat
                                 ? weight.group_scales.row<float>(n)[j]
                                 : weight.group_scales.row<int16_t>(n)[j];
        ASSERT_EQ(PackedScale(*pack, n, j) * Multiplier(*pack, n), scale) << n << ", " << j;
      }
      if (pack->channels_at >= 0) {
        ASSERT_EQ(Read<float>(*pack, pack->channels_at + n * 4),
                  weight.channel_scales.data<float>()[n]);
      }
    }
    EXPECT_EQ(pack->channels_at >= 0, test.format.scheme == Scheme::kInteger);
  }
}

TEST(GemmPackTest, GroupsAreFoundByShift) {
  struct Case {
    int64_t k, group_size;
    int32_t shift;
  };
  for (const Case& c : {Case{256, 32, 0}, Case{256, 64, 1}, Case{256, 128, 2}, Case{512, 256, 3},
                        Case{256, 256, 31}, Case{50, 50, 31}}) {
    const QuantizedWeight weight = RandomWeight({.group_size = c.group_size}, 2, c.k, 1);
    const absl::StatusOr<GemmPack> pack = PackGemmWeight(weight);
    ASSERT_TRUE(pack.ok()) << pack.status();
    EXPECT_EQ(pack->expert.group_shift, c.shift);
  }
}

TEST(GemmPackTest, CodesKeepTheirSizeAndFoldedScalesHalveTheirs) {
  const QuantizedWeight weight = RandomWeight({.group_size = 128}, 256, 1024, 1);
  const absl::StatusOr<GemmPack> pack = PackGemmWeight(weight);
  ASSERT_TRUE(pack.ok()) << pack.status();
  EXPECT_EQ(static_cast<int64_t>(pack->bytes.bytes()), 256 * 1024 / 2 + 256 * 8 + 256 * 4);
  EXPECT_LT(static_cast<int64_t>(pack->bytes.bytes()), weight.bytes());
}

TEST(GemmPackTest, DescriptorPointsIntoTheCopy) {
  const QuantizedWeight weight = RandomWeight({.bits = 8, .group_size = 64}, 16, 64, 1);
  const absl::StatusOr<GemmPack> pack = PackGemmWeight(weight);
  ASSERT_TRUE(pack.ok()) << pack.status();
  const char* base = reinterpret_cast<const char*>(uintptr_t{1} << 40);
  const GemmExpert expert = pack->At(base);
  EXPECT_EQ(expert.codes, base);
  EXPECT_EQ(reinterpret_cast<const char*>(expert.multipliers), base + pack->multipliers_at);
  EXPECT_EQ(reinterpret_cast<const char*>(expert.channel_scales), base + pack->channels_at);
  EXPECT_EQ(pack->multipliers_at % 256, 0);
  EXPECT_EQ(pack->channels_at % 256, 0);
}

TEST(GemmPackTest, WeightsThatCannotRunAreRefusedWithTheReason) {
  const auto message = [](const QuantizedWeight& weight) {
    const absl::Status status = PackGemmWeight(weight).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    return std::string(status.message());
  };
  EXPECT_NE(message(RandomWeight({.scheme = Scheme::kNone}, 2, 64, 1)).find("unquantised"),
            std::string::npos);
  EXPECT_NE(message(RandomWeight({.group_size = 96}, 2, 192, 1)).find("groups of 96"),
            std::string::npos);
  EXPECT_NE(message(RandomWeight({.bits = 8, .group_size = kGemmMaxK * 2}, 1, kGemmMaxK * 2, 1))
                .find("262144 in-features"),
            std::string::npos);
  QuantizedWeight folded = RandomWeight({.group_size = 32}, 3, 64, 1);
  folded.group_scales.row<int16_t>(2)[1] = 16;
  EXPECT_NE(message(folded).find("folded scale 16 of out feature 2, group 1"), std::string::npos);
}

}  // namespace
}  // namespace intermix::cuda
