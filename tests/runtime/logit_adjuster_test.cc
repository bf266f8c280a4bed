// LogitAdjuster: each adjustment by hand, all of them against an oracle that counts with a map.
#include "runtime/engine/logit_adjuster.h"

#include <algorithm>
#include <limits>
#include <map>
#include <random>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace intermix {
namespace {

using ::testing::ElementsAre;

constexpr float kForbidden = -std::numeric_limits<float>::infinity();

using Row = std::vector<float>;

Row Adjusted(const Row& row, const SamplingParams& params, const std::vector<int32_t>& prompt = {},
             const std::vector<int32_t>& output = {}) {
  LogitAdjuster adjuster;
  const std::span<const float> adjusted =
      adjuster.Adjust(row, params, {.prompt = prompt, .output = output});
  return {adjusted.begin(), adjusted.end()};
}

const Row kRow = {4.0f, -2.0f, 1.0f, 0.0f};

TEST(LogitAdjusterTest, HandsTheRowItselfBackWhereNothingChanges) {
  LogitAdjuster adjuster;
  const SamplingParams params = {.temperature = 1.0f, .top_k = 3, .stop_token_ids = {1}};
  EXPECT_EQ(adjuster.Adjust(kRow, params, {}).data(), kRow.data());
}

TEST(LogitAdjusterTest, RepetitionPenaltyTouchesPromptAndOutputOnce) {
  EXPECT_THAT(Adjusted(kRow, {.repetition_penalty = 2.0f}, {0, 0}, {1, 1, 0}),
              ElementsAre(2.0f, -4.0f, 1.0f, 0.0f));
}

TEST(LogitAdjusterTest, PresenceAndFrequencyCountTheOutputOnly) {
  EXPECT_THAT(Adjusted(kRow, {.presence_penalty = 0.5f}, {0, 3}, {2, 2, 2}),
              ElementsAre(4.0f, -2.0f, 0.5f, 0.0f));
  EXPECT_THAT(Adjusted(kRow, {.frequency_penalty = 0.5f}, {0, 3}, {2, 2, 1}),
              ElementsAre(4.0f, -2.5f, 0.0f, 0.0f));
  EXPECT_THAT(Adjusted(kRow, {.frequency_penalty = -1.0f}, {}, {3}),
              ElementsAre(4.0f, -2.0f, 1.0f, 1.0f));
}

TEST(LogitAdjusterTest, ForbidsWhatIsNotAllowedOrBad) {
  EXPECT_THAT(Adjusted(kRow, {.allowed_token_ids = {1, 3}}),
              ElementsAre(kForbidden, -2.0f, kForbidden, 0.0f));
  EXPECT_THAT(Adjusted(kRow, {.allowed_token_ids = {1, 3}, .bad_token_ids = {3}}),
              ElementsAre(kForbidden, -2.0f, kForbidden, kForbidden));
  EXPECT_THAT(Adjusted(kRow, {.logit_bias = {{1, 3.5f}, {2, 100.0f}}, .bad_token_ids = {2}}),
              ElementsAre(4.0f, 1.5f, kForbidden, 0.0f))
      << "no bias makes a bad token good";
}

TEST(LogitAdjusterTest, ForbidsStopsBeforeMinTokens) {
  const SamplingParams params = {.min_tokens = 2, .stop_token_ids = {0, 3}};
  EXPECT_THAT(Adjusted(kRow, params, {1}, {2}), ElementsAre(kForbidden, -2.0f, 1.0f, kForbidden));
  EXPECT_EQ(Adjusted(kRow, params, {1}, {2, 2}), kRow);
}

TEST(LogitAdjusterTest, AgreesWithAnOracleWhateverCameBefore) {
  constexpr int kVocab = 50;
  std::mt19937 random(5);
  const auto id = [&] { return static_cast<int32_t>(random() % kVocab); };
  LogitAdjuster adjuster;
  for (int i = 0; i < 300; ++i) {
    Row row(kVocab);
    for (float& logit : row) logit = static_cast<float>(static_cast<int>(random() % 64) - 32) / 8;
    SamplingParams params = {.repetition_penalty = 1.0f + 0.5f * (random() % 3),
                             .presence_penalty = 0.25f * (random() % 4),
                             .frequency_penalty = 0.25f * (random() % 4)};
    if (random() % 2) params.logit_bias = {{id(), 2.5f}, {id(), -1.0f}};
    std::vector<int32_t> prompt(random() % 30);
    std::vector<int32_t> output(random() % 30);
    std::generate(prompt.begin(), prompt.end(), id);
    std::generate(output.begin(), output.end(), id);

    std::map<int32_t, int> in_output;
    std::map<int32_t, int> anywhere;
    for (int32_t token : output) ++in_output[token], ++anywhere[token];
    for (int32_t token : prompt) ++anywhere[token];
    Row expected = row;
    for (const auto& [token, bias] : params.logit_bias) expected[token] += bias;
    for (const auto& [token, count] : anywhere) {
      float& logit = expected[token];
      logit = logit > 0 ? logit / params.repetition_penalty : logit * params.repetition_penalty;
    }
    for (const auto& [token, count] : in_output) {
      expected[token] -= params.frequency_penalty * static_cast<float>(count);
      expected[token] -= params.presence_penalty;
    }
    const std::span<const float> got =
        adjuster.Adjust(row, params, {.prompt = prompt, .output = output});
    ASSERT_EQ(Row(got.begin(), got.end()), expected) << "case " << i;
  }
}

}  // namespace
}  // namespace intermix
