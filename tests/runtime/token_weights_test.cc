// TokenWeights: the weights of LaneExp on every instruction set, and sums of them that find the
// right token.
#include "runtime/engine/token_weights.h"

#include <limits>
#include <random>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/core/lane_math.h"

namespace intermix {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

TEST(TokenWeightsTest, AreLaneExpOnEveryInstructionSet) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal(0.0f, 9.0f);
  for (const size_t size : {1, 15, 16, 17, 300, 32003}) {
    std::vector<float> logits(size);
    for (float& logit : logits) logit = normal(random);
    logits[random() % size] = -kInfinity;
    logits[random() % size] = 50.0f;
    for (float temperature : {1e-30f, 0.3f, 1.0f, 7.0f, 3e38f}) {
      for (const Isa isa : SupportedIsas()) {
        std::vector<float> weights(size, -1.0f);
        cpu::KernelsFor(isa).rows.weights(logits.data(), static_cast<int64_t>(size), 50.0f,
                                          temperature, weights.data());
        for (size_t i = 0; i < size; ++i) {
          ASSERT_EQ(weights[i], LaneExp((logits[i] - 50.0f) / temperature))
              << Name(isa) << " " << i;
        }
      }
    }
  }
}

TEST(TokenWeightsTest, FindTheTokenThatPassesATarget) {
  std::mt19937 random(2);
  std::normal_distribution<float> normal(0.0f, 2.0f);
  TokenWeights weights;
  for (const size_t size : {1, 16, 255, 256, 257, 1000, 4096}) {
    std::vector<float> logits(size);
    for (float& logit : logits) logit = random() % 3 == 0 ? -kInfinity : normal(random);
    logits[random() % size] = 10.0f;
    weights.Set(logits, 10.0f, 1.0f);
    double before = 0.0;  // another order of sums, so targets are taken from a weight's middle
    for (size_t id = 0; id < size; ++id) {
      const auto weight = static_cast<double>(weights[static_cast<int32_t>(id)]);
      const double target = before + weight / 2;
      if (weight > 1e-9) {
        ASSERT_EQ(weights.TokenAt(target), id) << size;
      }
      before += weight;
    }
    EXPECT_NEAR(weights.total(), before, 1e-9 * before);
    const int32_t last = weights.TokenAt(std::nextafter(weights.total(), 0.0));
    EXPECT_GT(weights[last], 0.0f);
  }
}

TEST(TokenWeightsTest, ForgetTheRowBefore) {
  TokenWeights weights;
  weights.Set(std::vector<float>(1000, 0.0f), 0.0f, 1.0f);
  weights.Set(std::vector<float>{0.0f, 0.0f}, 0.0f, 1.0f);
  EXPECT_EQ(weights.total(), 2.0);
  EXPECT_EQ(weights.TokenAt(1.5), 1);
}

}  // namespace
}  // namespace intermix
