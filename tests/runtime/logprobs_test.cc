// Logprobs: against libm in double and a full sort.
#include "runtime/engine/logprobs.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace intermix {
namespace {

using ::testing::HasSubstr;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

TEST(LikeliestTokenTest, IsTheFirstOfTheLargestWhereverItStands) {
  std::mt19937 random(5);
  for (const size_t size : {1, 15, 16, 17, 511, 512, 513, 1024, 2000, 32003}) {
    for (int i = 0; i < 30; ++i) {
      std::vector<float> logits(size);
      for (float& logit : logits) logit = static_cast<float>(random() % 50) - 60.0f;
      if (i % 3 == 0) logits[random() % size] = 7.0f;
      if (i % 3 == 0) logits[random() % size] = 7.0f;
      const auto largest = std::max_element(logits.begin(), logits.end());
      EXPECT_EQ(*LikeliestToken(logits), largest - logits.begin()) << size;
      const size_t nan = random() % size;
      logits[nan] = std::numeric_limits<float>::quiet_NaN();
      EXPECT_THAT(std::string(LikeliestToken(logits).status().message()),
                  HasSubstr("first at token id " + std::to_string(nan)));
    }
  }
}

TEST(LogprobsTest, AgreeWithLibmAndAFullSort) {
  TokenWeights weights;
  std::mt19937 random(3);
  std::normal_distribution<float> normal(0.0f, 4.0f);
  for (int i = 0; i < 100; ++i) {
    std::vector<float> logits(1 + random() % 300);
    for (float& logit : logits) logit = std::round(normal(random) * 4.0f) / 4.0f;  // with ties
    const int32_t token = static_cast<int32_t>(random() % logits.size());
    const int32_t num_top = static_cast<int32_t>(random() % 21);
    double total = 0;
    for (float logit : logits) total += std::exp(static_cast<double>(logit));
    std::vector<int32_t> order(logits.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(),
                     [&](int32_t a, int32_t b) { return logits[a] > logits[b]; });

    const absl::StatusOr<TokenLogprobs> got = Logprobs(logits, token, num_top, weights);
    ASSERT_TRUE(got.ok());
    EXPECT_NEAR(got->logprob, logits[token] - std::log(total), 1e-5);
    ASSERT_EQ(got->top.size(), std::min<size_t>(num_top, logits.size()));
    for (size_t k = 0; k < got->top.size(); ++k) {
      EXPECT_EQ(got->top[k].token_id, order[k]);
      EXPECT_NEAR(got->top[k].logprob, logits[order[k]] - std::log(total), 1e-5);
    }
  }
}

TEST(LogprobsTest, ATokenThatCannotBeIsMinusInfinity) {
  const std::vector<float> logits = {0.0f, -kInfinity, 0.0f};
  TokenWeights weights;
  EXPECT_EQ(Logprobs(logits, 1, 0, weights)->logprob, -kInfinity);
  EXPECT_FLOAT_EQ(Logprobs(logits, 0, 0, weights)->logprob, -std::log(2.0f));
}

TEST(LogprobsTest, ABrokenRowIsAnInternalError) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  TokenWeights weights;
  const absl::Status status = Logprobs(std::vector<float>{1.0f, nan}, 0, 1, weights).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(status.message(), HasSubstr("NaN logits (first at token id 1)"));
}

}  // namespace
}  // namespace intermix
