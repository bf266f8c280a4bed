// Perplexity of tiny-mixtral on its whole held-out text: unquantised against transformers, integer
// scales against float scales.
#include "launch/perplexity.h"

#include "gtest/gtest.h"
#include "tests/testing/stepped_model.h"

namespace intermix {
namespace {

double Measure(const QuantSpec& quant, DType kv_dtype = DType::kBF16) {
  const std::unique_ptr<SteppedModel> model = SteppedModel::Load("tiny-mixtral", quant, kv_dtype);
  if (model == nullptr) return 0.0;
  const std::vector<int32_t> tokens = HeldOutTokens();
  absl::StatusOr<PerplexityResult> result = MeasurePerplexity(
      {.bos_token_id = 1, .window = 512, .max_batch_tokens = 1024}, tokens, model->runner());
  EXPECT_TRUE(result.ok()) << result.status();
  if (!result.ok()) return 0.0;
  EXPECT_EQ(result->tokens, 46517);
  return result->perplexity;
}

TEST(PerplexityTest, UnquantisedIsThatOfTransformers) {
  const double expected = ReadTestJson("golden/tiny-mixtral.json").at("perplexity").at("value");
  EXPECT_NEAR(Measure({.scheme = Scheme::kNone}), expected, 0.002 * expected);
}

TEST(PerplexityTest, OfAnInt8CacheIsWithin02PercentOfBf16) {
  const QuantSpec quant = {.scales = ScaleChoice::kFolded};
  const double bf16 = Measure(quant);
  const double int8 = Measure(quant, DType::kI8);
  EXPECT_NE(int8, bf16);
  EXPECT_NEAR(int8, bf16, 0.002 * bf16);
}

class IntegerScaleTest : public ::testing::TestWithParam<int64_t> {};

TEST_P(IntegerScaleTest, IsWithin04PercentOfFloatScale) {
  const int64_t group_size = GetParam();
  const double float_scale = Measure({.scheme = Scheme::kFloat, .group_size = group_size});
  for (ScaleChoice scales : {ScaleChoice::kFolded, ScaleChoice::kWide}) {
    EXPECT_NEAR(Measure({.group_size = group_size, .scales = scales}), float_scale,
                0.004 * float_scale)
        << (scales == ScaleChoice::kFolded ? "folded" : "wide");
  }
}

INSTANTIATE_TEST_SUITE_P(GroupSizes, IntegerScaleTest, ::testing::Values(32, 64, 128));

}  // namespace
}  // namespace intermix
