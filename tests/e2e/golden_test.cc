// Whole models against Hugging Face transformers in float32 (tests/tools/make_goldens.py): logits
// of every position and greedy continuations. With Scheme::kNone the bfloat16 roundings of
// numerics.md are the only difference: logits differ by 0.5 to 0.8% of their RMS, and by a quarter
// of a percent at most where transformers does the same roundings.
#include <algorithm>
#include <cmath>
#include <span>

#include "gtest/gtest.h"
#include "launch/perplexity.h"
#include "tests/testing/stepped_model.h"

namespace intermix {
namespace {

using nlohmann::json;
using Row = SteppedModel::Row;

double Rms(std::span<const float> values) {
  double sum = 0.0;
  for (float x : values) sum += static_cast<double>(x) * x;
  return std::sqrt(sum / static_cast<double>(values.size()));
}

// RMS of actual - expected over RMS of expected, all rows together.
double RelativeError(const std::vector<Row>& actual, const std::vector<Row>& expected) {
  EXPECT_EQ(actual.size(), expected.size());
  Row difference, all;
  for (size_t i = 0; i < std::min(actual.size(), expected.size()); ++i) {
    EXPECT_EQ(actual[i].size(), expected[i].size());
    for (size_t j = 0; j < std::min(actual[i].size(), expected[i].size()); ++j) {
      difference.push_back(actual[i][j] - expected[i][j]);
      all.push_back(expected[i][j]);
    }
  }
  return Rms(difference) / Rms(all);
}

double LogSumExp(const Row& logits) {
  const double max = *std::max_element(logits.begin(), logits.end());
  double sum = 0.0;
  for (float x : logits) sum += std::exp(x - max);
  return max + std::log(sum);
}

class RandomModelTest : public ::testing::TestWithParam<std::string> {
 protected:
  const json golden_ = ReadTestJson(GetParam() + "/golden.json");
  const std::unique_ptr<SteppedModel> model_ = SteppedModel::Load(GetParam());
};

TEST_P(RandomModelTest, LogitsOfEveryPositionAgreeWithTransformers) {
  ASSERT_NE(model_, nullptr);
  const std::vector<Row> actual = model_->Step(golden_.at("prompt"));
  EXPECT_LT(RelativeError(actual, golden_.at("logits").get<std::vector<Row>>()), 0.01);
  // What is left here are values next to a rounding boundary that fell to its other side.
  EXPECT_LT(RelativeError(actual, golden_.at("rounded_logits").get<std::vector<Row>>()), 0.004);
}

TEST_P(RandomModelTest, GreedyContinuationIsTheSame) {
  ASSERT_NE(model_, nullptr);
  const auto expected = golden_.at("greedy").get<std::vector<int32_t>>();
  EXPECT_EQ(model_->Greedy(golden_.at("prompt"), expected.size()), expected);
}

INSTANTIATE_TEST_SUITE_P(All, RandomModelTest,
                         ::testing::Values("random-mixtral-gqa", "random-mixtral-mqa",
                                           "random-mixtral-mha", "random-llama-mha",
                                           "random-llama-gqa", "random-llama-mqa"),
                         [](const auto& param_info) {
                           std::string name = param_info.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

TEST(TinyMixtralTest, LogitsAndGreedyTextsAgreeWithTransformers) {
  const json golden = ReadTestJson("golden/tiny-mixtral.json");
  const std::unique_ptr<SteppedModel> model = SteppedModel::Load("tiny-mixtral");
  ASSERT_NE(model, nullptr);
  Row difference, all;  // of the 20 largest logits after each prompt; all logits
  for (const json& prompt : golden.at("prompts")) {
    SCOPED_TRACE(prompt.at("text").get<std::string>());
    const Row logits = model->Step(prompt.at("ids")).back();
    for (const json& entry : prompt.at("last_logits_top20")) {
      difference.push_back(logits.at(entry.at(0).get<size_t>()) - entry.at(1).get<float>());
    }
    all.insert(all.end(), logits.begin(), logits.end());
    EXPECT_NEAR(LogSumExp(logits), prompt.at("logsumexp").get<double>(), 0.05);
    const auto greedy = prompt.at("greedy32").get<std::vector<int32_t>>();
    EXPECT_EQ(model->Greedy(prompt.at("ids"), greedy.size()), greedy);
  }
  EXPECT_LT(Rms(difference), 0.01 * Rms(all));
}

TEST(TinyMixtralTest, FirstHeldOutWindowsAreAsLikelyAsInTransformers) {
  const std::unique_ptr<SteppedModel> model = SteppedModel::Load("tiny-mixtral");
  ASSERT_NE(model, nullptr);
  const json windows = ReadTestJson("golden/tiny-mixtral-windows.json").at("windows");
  double nll = 0.0;
  for (int i = 0; i < 2; ++i) nll += windows[i][1].get<double>();
  std::vector<int32_t> tokens = HeldOutTokens();
  tokens.resize(1024);  // two windows
  absl::StatusOr<PerplexityResult> result = MeasurePerplexity(
      {.bos_token_id = 1, .window = 512, .max_batch_tokens = 1024}, tokens, model->runner());
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_NEAR(std::log(result->perplexity), nll / 1024, 0.002);
}

}  // namespace
}  // namespace intermix
