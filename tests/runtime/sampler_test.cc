// Sampler: against a plain sort-everything oracle, by frequencies, and at the edges.
#include "runtime/engine/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>
#include <set>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/reference/reference_backend.h"
#include "runtime/engine/philox.h"

namespace intermix {
namespace {

using ::testing::HasSubstr;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

// As the next token after `index` tokens of output.
absl::StatusOr<int32_t> SampleAt(Sampler& sampler, const std::vector<float>& logits,
                                 const SamplingParams& params, size_t index) {
  static const std::vector<int32_t> output(20000, 0);
  return sampler.Sample(logits, params, {.output = std::span(output).first(index)});
}

int32_t MustSample(const std::vector<float>& logits, const SamplingParams& params, int32_t index) {
  Sampler sampler;
  const absl::StatusOr<int32_t> token = SampleAt(sampler, logits, params, index);
  EXPECT_TRUE(token.ok()) << token.status();
  return token.value_or(-1);
}

std::vector<float> RandomLogits(std::mt19937& random, int vocab_size) {
  std::normal_distribution<float> normal(0.0f, 3.0f);
  std::vector<float> logits(vocab_size);
  for (float& logit : logits) logit = std::round(normal(random) * 8.0f) / 8.0f;  // with many ties
  return logits;
}

// Probabilities of what top_k, top_p and min_p leave, by id, with libm's exp and a full sort.
std::vector<double> OracleProbabilities(const std::vector<float>& logits,
                                        const SamplingParams& params) {
  std::vector<int32_t> ids(logits.size());
  std::iota(ids.begin(), ids.end(), 0);
  std::stable_sort(ids.begin(), ids.end(),
                   [&](int32_t a, int32_t b) { return logits[a] > logits[b]; });
  if (params.top_k > 0 && params.top_k < ids.size()) ids.resize(params.top_k);
  const auto weight = [&](int32_t id) {
    return std::exp((static_cast<double>(logits[id]) - logits[ids[0]]) / params.temperature);
  };
  double total = 0;
  for (int32_t id : ids) total += weight(id);
  std::vector<double> kept(logits.size(), 0.0);
  double mass = 0;
  for (int32_t id : ids) {
    if (weight(id) < params.min_p) break;
    kept[id] = weight(id);
    mass += kept[id];
    if (params.top_p < 1.0f && mass >= params.top_p * total) break;
  }
  for (double& p : kept) p /= mass;
  return kept;
}

TEST(SamplerTest, GreedyTakesTheLargestAndTheLowestIdOfEqualOnes) {
  EXPECT_EQ(MustSample({1.0f, 5.0f, 2.0f, 5.0f}, {}, 0), 1);
  EXPECT_EQ(MustSample({-kInfinity, -3.0f, -3.0f}, {}, 7), 1);
  EXPECT_EQ(MustSample({-0.0f, 0.0f}, {}, 0), 0);
  EXPECT_EQ(MustSample({0.0f, 1.0f, 1.0f}, {.temperature = 5.0f, .top_k = 1, .seed = 3}, 0), 1);
}

TEST(SamplerTest, ARowThatIsNotANumberIsAnInternalError) {
  Sampler sampler;
  for (float temperature : {0.0f, 1.0f}) {
    const SamplingParams params = {.temperature = temperature};
    for (const std::vector<float>& row : {std::vector<float>{1.0f, kNan},
                                          {kNan, 1.0f},
                                          {kInfinity, 0.0f},
                                          {-kInfinity, -kInfinity}}) {
      EXPECT_EQ(SampleAt(sampler, row, params, 0).status().code(), absl::StatusCode::kInternal);
    }
    EXPECT_THAT(SampleAt(sampler, std::vector<float>{1.0f, kNan}, params, 0).status().message(),
                HasSubstr("the model produced NaN logits (first at token id 1"));
    EXPECT_TRUE(SampleAt(sampler, std::vector<float>{1.0f, -kInfinity}, params, 0).ok());
  }
}

TEST(SamplerTest, IsAPureFunctionOfRowParametersAndIndex) {
  std::mt19937 random(1);
  const std::vector<float> logits = RandomLogits(random, 500);
  const SamplingParams params = {.temperature = 1.5f, .top_k = 100, .top_p = 0.95f, .seed = 42};
  Sampler sampler;
  std::vector<int32_t> forward;
  for (int i = 0; i < 50; ++i) forward.push_back(*SampleAt(sampler, logits, params, i));
  for (int i = 49; i >= 0; --i) {
    (void)SampleAt(sampler, RandomLogits(random, 300), {.temperature = 1.0f}, i);
    EXPECT_EQ(*SampleAt(sampler, logits, params, i), forward[i]);
  }
  SamplingParams other = params;
  other.seed += uint64_t{1} << 32;
  int equal = 0;
  for (int i = 0; i < 50; ++i) equal += *SampleAt(sampler, logits, other, i) == forward[i];
  EXPECT_LT(equal, 25) << "the seed's upper half does nothing";
}

// The draw is part of the contract: a recorded request replays on any host.
TEST(SamplerTest, DrawsFromPhiloxWithTheSeedAsKeyAndTheIndexAsCounter) {
  const std::vector<float> two = {0.0f, 0.0f};
  const uint64_t seed = 0x123456789abcdef0;
  int ones = 0;
  for (int32_t index = 0; index < 200; ++index) {
    const uint32_t word =
        Philox4x32({static_cast<uint32_t>(index), 0, 0, 0}, {0x9abcdef0, 0x12345678})[0];
    const int32_t expected = word >= 0x80000000u ? 1 : 0;
    ones += expected;
    EXPECT_EQ(MustSample(two, {.temperature = 1.0f, .seed = seed}, index), expected);
  }
  EXPECT_GT(ones, 60);
  EXPECT_LT(ones, 140);
}

TEST(SamplerTest, EachChoiceHasItsOwnDraws) {
  const std::vector<float> flat(1000, 0.0f);
  const SamplingParams params = {.temperature = 1.0f, .seed = 5};
  Sampler sampler;
  std::set<int32_t> tokens;
  for (int32_t choice = 0; choice < 20; ++choice) {
    tokens.insert(*sampler.Sample(flat, params, {.choice = choice}));
  }
  EXPECT_GT(tokens.size(), 15);
  EXPECT_EQ(*sampler.Sample(flat, params, {.choice = 0}), MustSample(flat, params, 0));
}

TEST(SamplerTest, ChoosesFromWhatTheAdjusterLeaves) {
  Sampler sampler;
  const std::vector<float> row = {5.0f, 4.0f, 3.0f, 2.0f};
  EXPECT_EQ(MustSample(row, {.allowed_token_ids = {2, 3}}, 0), 2);
  EXPECT_EQ(MustSample(row, {.bad_token_ids = {0, 1, 2}}, 0), 3);
  EXPECT_EQ(MustSample(row, {.temperature = 9.0f, .allowed_token_ids = {1}}, 0), 1);
  const std::vector<float> broken = {kNan, 1.0f};
  EXPECT_EQ(SampleAt(sampler, broken, {.bad_token_ids = {0}}, 0).status().code(),
            absl::StatusCode::kInternal)
      << "a NaN is one also where it may not be chosen";
}

TEST(SamplerTest, AgreesWithASortEverythingOracle) {
  std::mt19937 random(2);
  Sampler sampler;
  for (int i = 0; i < 600; ++i) {
    const int vocab_size = 1 + static_cast<int>(random() % 700);
    const std::vector<float> logits = RandomLogits(random, vocab_size);
    SamplingParams params = {.temperature = 0.25f * (1 + random() % 8), .seed = random()};
    params.top_k = random() % 2 ? static_cast<int32_t>(random() % 200) : 0;
    params.top_p = random() % 2 ? 0.05f * (1 + random() % 19) : 1.0f;
    params.min_p = random() % 2 ? 0.03f * (random() % 10) : 0.0f;
    const std::vector<double> probabilities = OracleProbabilities(logits, params);

    // The oracle walks the same way: by id where nothing is filtered, else by rank.
    std::vector<int32_t> order(logits.size());
    std::iota(order.begin(), order.end(), 0);
    if ((params.top_k > 0 && params.top_k < vocab_size) || params.top_p < 1.0f ||
        params.min_p > 0.0f) {
      std::stable_sort(order.begin(), order.end(),
                       [&](int32_t a, int32_t b) { return logits[a] > logits[b]; });
    }
    const uint32_t index = random() % 1000;
    const PhiloxCounter words =
        Philox4x32({index, 0, 0, 0}, {static_cast<uint32_t>(params.seed), 0});
    const double draw = words[0] * 0x1p-32 + words[1] * 0x1p-64;
    double sum = 0;
    int32_t expected = -1;
    for (int32_t id : order) {
      sum += probabilities[id];
      if (expected < 0 && sum > draw) expected = id;
    }
    ASSERT_EQ(*SampleAt(sampler, logits, params, index), expected)
        << "case " << i << ": vocab " << vocab_size << " top_k " << params.top_k << " top_p "
        << params.top_p;
  }
}

// The whole row through Sample, and its first tokens through SampleLikeliest.
TEST(SamplerTest, TheLikeliestTokensSufficeWhereItSaysSo) {
  std::mt19937 random(4);
  Sampler sampler;
  ReferenceBackend backend;
  int served = 0;
  for (int i = 0; i < 2000; ++i) {
    const int32_t vocab_size = 1 + static_cast<int32_t>(random() % 300);
    std::vector<float> logits = RandomLogits(random, vocab_size);
    for (float odd : {kNan, kInfinity, -kInfinity, -0.0f}) {
      if (random() % 8 == 0) logits[random() % vocab_size] = odd;
    }
    if (random() % 16 == 0) logits.assign(logits.size(), -kInfinity);
    SamplingParams params = {.temperature = 0.25f * (random() % 4), .seed = random()};
    params.top_k = static_cast<int32_t>(random() % 80);
    params.top_p = random() % 2 ? 0.05f * (1 + random() % 19) : 1.0f;
    params.min_p = random() % 2 ? 0.03f * (random() % 10) : 0.0f;
    const AnswerState state = {.choice = i};
    const int32_t needed = Sampler::LikeliestNeeded(params, state, vocab_size);
    if (needed == 0) continue;
    ++served;
    const int64_t k = std::min<int64_t>(kMaxTopK, needed + random() % 3);
    std::vector<float> values(k);
    std::vector<int32_t> ids(k);
    backend.TopK(Tensor(logits.data(), DType::kF32, {1, vocab_size}),
                 Tensor(values.data(), DType::kF32, {1, k}),
                 Tensor(ids.data(), DType::kI32, {1, k}));
    EXPECT_EQ(sampler.SampleLikeliest(values, ids, params, state),
              sampler.Sample(logits, params, state))
        << "case " << i << ": vocab " << vocab_size << " top_k " << params.top_k;
  }
  EXPECT_GT(served, 1000);
}

TEST(SamplerTest, WhatNeedsTheWholeRow) {
  const auto needed = [](const SamplingParams& params) {
    return Sampler::LikeliestNeeded(params, {}, 1000);
  };
  EXPECT_EQ(needed({}), 1);
  EXPECT_EQ(needed({.top_k = 900, .top_p = 0.5f, .min_p = 0.1f}), 1);
  EXPECT_EQ(needed({.temperature = 1.0f, .top_k = 64, .top_p = 0.5f}), 64);
  EXPECT_EQ(needed({.temperature = 1.0f, .top_k = 65}), 0);
  EXPECT_EQ(needed({.temperature = 1.0f}), 0);
  EXPECT_EQ(needed({.temperature = 1.0f, .top_p = 0.5f}), 0);
  EXPECT_EQ(needed({.repetition_penalty = 1.1f}), 0);
  EXPECT_EQ(needed({.logit_bias = {{3, 1.0f}}}), 0);
  EXPECT_EQ(needed({.bad_token_ids = {3}}), 0);
  EXPECT_EQ(needed({.stop_token_ids = {3}}), 1);
  EXPECT_EQ(needed({.min_tokens = 1, .stop_token_ids = {3}}), 0);
  EXPECT_EQ(Sampler::LikeliestNeeded({.temperature = 1.0f, .top_k = 50}, {}, 50), 0);
}

TEST(SamplerTest, FrequenciesFollowTheProbabilities) {
  constexpr int kDraws = 20000;
  std::mt19937 random(3);
  const std::vector<float> logits = RandomLogits(random, 40);
  Sampler sampler;
  for (const SamplingParams& params :
       {SamplingParams{.temperature = 1.0f, .seed = 1},
        SamplingParams{.temperature = 4.0f, .seed = 2},
        SamplingParams{.temperature = 2.0f, .top_k = 12, .seed = 3},
        SamplingParams{.temperature = 2.0f, .top_p = 0.8f, .seed = 4},
        SamplingParams{.temperature = 3.0f, .min_p = 0.2f, .seed = 6},
        SamplingParams{.temperature = 3.0f, .top_k = 20, .top_p = 0.7f, .seed = 5}}) {
    const std::vector<double> expected = OracleProbabilities(logits, params);
    std::vector<int> counts(logits.size(), 0);
    for (int i = 0; i < kDraws; ++i) ++counts[*SampleAt(sampler, logits, params, i)];
    for (size_t id = 0; id < logits.size(); ++id) {
      const double mean = expected[id] * kDraws;
      const double sigma = std::sqrt(mean * (1.0 - expected[id]));
      EXPECT_NEAR(counts[id], mean, 5.0 * sigma + 1e-9) << "token " << id;
    }
  }
}

TEST(SamplerTest, ExtremeTemperaturesStayInRange) {
  const std::vector<float> logits = {-1e30f, 3.0f, 2.9f, -kInfinity, 3.0f};
  for (int i = 0; i < 100; ++i) {
    for (float top_p : {1.0f, 0.999999f}) {
      const int32_t cold = MustSample(logits, {.temperature = 1e-38f, .top_p = top_p}, i);
      EXPECT_TRUE(cold == 1 || cold == 4) << cold;
      const int32_t hot = MustSample(logits, {.temperature = 3e38f, .top_p = top_p}, i);
      EXPECT_NE(hot, 3);
    }
  }
}

// Candidates are found by how far below the largest logit they are, in temperatures; what rounding
// makes of that bound does not show.
TEST(SamplerTest, TemperaturesBelowTheLogitsPrecision) {
  const float below = std::nextafter(100.0f, 0.0f);
  for (float temperature : {1e-8f, 1e-7f, 5e-7f, 1e-6f, 2e-6f, 1e-5f}) {
    for (const SamplingParams& filter :
         {SamplingParams{.min_p = 0.5f}, SamplingParams{.min_p = 1e-4f},
          SamplingParams{.top_p = 0.999f}, SamplingParams{.top_k = 2}}) {
      SamplingParams params = filter;
      params.temperature = temperature;
      for (int i = 0; i < 50; ++i) {
        const int32_t token = MustSample({below, 100.0f, 0.0f, 100.0f, -kInfinity}, params, i);
        EXPECT_TRUE(token == 1 || token == 3 || (token == 0 && temperature > 5e-7f)) << token;
      }
    }
  }
}

// Enough candidates far below the likeliest for every tier, and for sorting in several turns.
TEST(SamplerTest, FarCandidatesAreDrawnAsOftenAsTheyShould) {
  std::vector<float> logits(5000, 0.0f);
  logits[17] = 9.0f;    // as likely as 8103 of the others
  logits[4000] = 3.0f;  // as 20 of them
  Sampler sampler;
  int likeliest = 0;
  int second = 0;
  constexpr int kDraws = 4000;
  for (int i = 0; i < kDraws; ++i) {
    const int32_t token = *SampleAt(sampler, logits, {.temperature = 1.0f, .top_p = 0.9f}, i);
    likeliest += token == 17;
    second += token == 4000;
    if (token != 17 && token != 4000) {
      EXPECT_LT(token, 3700) << "top_p cuts the highest ids";
    }
  }
  const double total = 0.9 * (std::exp(9.0) + std::exp(3.0) + 4998);
  EXPECT_NEAR(likeliest / double{kDraws}, std::exp(9.0) / total, 0.03);
  EXPECT_NEAR(second / double{kDraws}, std::exp(3.0) / total, 0.003);
}

TEST(SamplerTest, SurvivesALargeVocabularyThatIsFlat) {
  const std::vector<float> logits(50000, 1.25f);
  Sampler sampler;
  int32_t highest = 0;
  for (int i = 0; i < 20; ++i) {
    highest = std::max(
        highest, *SampleAt(sampler, logits, {.temperature = 1.0f, .top_p = 0.999f, .seed = 7}, i));
  }
  EXPECT_GT(highest, 30000);
  EXPECT_LE(highest, 49950);
}

}  // namespace
}  // namespace intermix
