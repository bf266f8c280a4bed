// Perplexity on a fake model, against its definition carried out token by token.
#include "launch/perplexity.h"

#include <atomic>
#include <cmath>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/fake_model_runner.h"

namespace intermix {
namespace {

using ::intermix::testing::FakeLogits;
using ::intermix::testing::FakeModelOptions;
using ::intermix::testing::FakeModelRunner;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr int32_t kBos = 1;

std::vector<int32_t> Text(int length) {
  std::vector<int32_t> text;
  for (int i = 0; i < length; ++i) text.push_back((i * i + 7 * i + 3) % 101);
  return text;
}

// The golden file's definition, in long double.
double Expected(const std::vector<int32_t>& text, int window, const FakeModelOptions& options) {
  long double sum = 0;
  std::vector<int32_t> history;
  for (size_t i = 0; i < text.size(); ++i) {
    if (i % window == 0) history = {kBos};
    long double total = 0;
    const std::vector<float> logits = FakeLogits(history, options);
    for (float logit : logits) total += std::exp(static_cast<long double>(logit));
    sum += std::log(total) - logits[text[i]];
    history.push_back(text[i]);
  }
  return static_cast<double>(std::exp(sum / static_cast<long double>(text.size())));
}

TEST(PerplexityTest, FollowsTheDefinitionWhateverTheBatch) {
  const std::vector<int32_t> text = Text(103);  // windows of 20, the last one of 3
  for (int32_t dp : {1, 2}) {
    for (int32_t batch : {20, 39, 40, 1000}) {
      const FakeModelOptions options = {.num_dp_groups = dp, .max_batch_tokens = batch};
      FakeModelRunner runner(options);
      std::vector<int64_t> progress;
      const auto result =
          MeasurePerplexity({.bos_token_id = kBos,
                             .window = 20,
                             .max_batch_tokens = batch,
                             .progress = [&progress](int64_t done) { progress.push_back(done); }},
                            text, runner);
      ASSERT_TRUE(result.ok()) << result.status();
      EXPECT_NEAR(result->perplexity, Expected(text, 20, options), 1e-6 * result->perplexity);
      EXPECT_EQ(result->tokens, 103);
      EXPECT_EQ(progress.back(), 103);
      EXPECT_EQ(progress.size(), runner.batches().size());
      EXPECT_THAT(runner.violations(), IsEmpty());
    }
  }
}

TEST(PerplexityTest, StepsSeveralWindowsWhereTheyFit) {
  FakeModelRunner runner({.max_batch_tokens = 40});
  ASSERT_TRUE(MeasurePerplexity({.bos_token_id = kBos, .window = 20, .max_batch_tokens = 40},
                                Text(80), runner)
                  .ok());
  EXPECT_EQ(runner.batches().size(), 2);
  // 64 blocks of 4 hold 256 positions: three windows of 70 tokens, 18 blocks each.
  FakeModelRunner small_cache({});
  ASSERT_TRUE(MeasurePerplexity({.bos_token_id = kBos, .window = 70, .max_batch_tokens = 700},
                                Text(280), small_cache)
                  .ok());
  EXPECT_EQ(small_cache.batches().size(), 2);
  EXPECT_THAT(small_cache.violations(), IsEmpty());
}

void ExpectRefused(const PerplexityOptions& options, int tokens, const std::string& why) {
  FakeModelRunner runner({});
  const auto result = MeasurePerplexity(options, Text(tokens), runner);
  EXPECT_EQ(result.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(result.status().message()), HasSubstr(why));
  EXPECT_THAT(runner.batches(), IsEmpty());
}

TEST(PerplexityTest, RefusesWhatCannotBeMeasured) {
  ExpectRefused({.bos_token_id = -1}, 5, "begin-of-sequence");
  ExpectRefused({.bos_token_id = kBos}, 0, "no tokens");
  ExpectRefused({.bos_token_id = kBos, .window = 257}, 5, "context of 256");
  ExpectRefused({.bos_token_id = kBos, .window = 20, .max_batch_tokens = 19}, 5, "a step of 19");
}

TEST(PerplexityTest, StopsWhenCancelled) {
  FakeModelRunner runner({});
  std::atomic<bool> cancelled{false};
  const auto result = MeasurePerplexity({.bos_token_id = kBos,
                                         .window = 20,
                                         .max_batch_tokens = 20,
                                         .progress = [&](int64_t) { cancelled = true; },
                                         .cancelled = &cancelled},
                                        Text(80), runner);
  EXPECT_EQ(result.status().code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(runner.batches().size(), 1);
}

}  // namespace
}  // namespace intermix
