// The quantiser's inner loops, on whatever instruction set this machine has, against scalar code in
// the same 16-lane order: equal with ==, so that every machine quantises to the same bits.
#include "kernels/quant/group_fit.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <vector>

#include "gtest/gtest.h"
#include "tests/testing/random.h"

namespace intermix {
namespace {

struct Data {
  std::vector<float> values;
  std::vector<float> scales;
  std::vector<float> multipliers;
  Groups groups;

  Data(int64_t count, int64_t size, int bits, uint64_t seed) {
    Random random(seed);
    const CodeRange range = RangeOf(bits);
    for (int64_t i = 0; i < count * size; ++i) {
      values.push_back(static_cast<float>(random.Gaussian()));
    }
    for (int64_t j = 0; j < count; ++j) {
      scales.push_back(static_cast<float>(0.5 + 2.0 * random.Uniform()) / range.high);
      multipliers.push_back(static_cast<float>(random.Int(1, 32767)));
    }
    groups = {values.data(), count, size, range};
  }
};

float NearestCode(float x, CodeRange range) {
  return std::nearbyint(std::clamp(x, range.low, range.high));
}

TEST(GroupFitTest, EqualsScalarCodeInTheSameOrder) {
  for (const int64_t size : {16, 32, 64, 128, 4096}) {
    for (const int bits : {4, 8}) {
      const Data data(5, size, bits, static_cast<uint64_t>(size + bits));
      float lanes[16] = {};
      double product_sum = 0.0;
      for (int64_t j = 0; j < 5; ++j) {
        float group_lanes[16] = {};
        const float inverse = 1.0f / data.scales[j];
        for (int64_t k = 0; k < size; ++k) {
          const float x = data.values[j * size + k] * inverse;
          const float code = NearestCode(x, data.groups.range);
          group_lanes[k % 16] += (x - code) * (x - code);
          product_sum += static_cast<double>(data.multipliers[j]) * std::fabs(code);
        }
        const float squared_scale = data.scales[j] * data.scales[j];
        for (int l = 0; l < 16; ++l) lanes[l] += group_lanes[l] * squared_scale;
      }
      double squared_error = 0.0;
      for (const float lane : lanes) squared_error += static_cast<double>(lane);
      const GroupsFit fit = FitGroups(data.groups, data.scales.data(), data.multipliers.data());
      EXPECT_EQ(fit.squared_error, squared_error) << size << ", " << bits;
      EXPECT_EQ(fit.product_sum, product_sum) << size << ", " << bits;
      EXPECT_EQ(GroupsError(data.groups, data.scales.data()), squared_error) << size;
    }
  }
}

TEST(GroupFitTest, CodesAreRoundedAndClamped) {
  for (const int bits : {4, 8}) {
    const Data data(3, 128, bits, 9);
    std::vector<int8_t> codes(data.values.size());
    RoundGroups(data.groups, data.scales.data(), codes.data());
    for (int64_t i = 0; i < 3 * 128; ++i) {
      const float x = data.values[i] * (1.0f / data.scales[i / 128]);
      EXPECT_EQ(codes[i], static_cast<int>(NearestCode(x, data.groups.range)));
    }
  }
}

TEST(GroupFitTest, MaximaSeeEveryLaneAndNan) {
  for (int64_t position = 0; position < 64; ++position) {
    Data data(2, 32, 4, 10);
    data.values[position] = -100.0f;
    float maxima[2];
    GroupMaxima(data.groups, maxima);
    EXPECT_EQ(maxima[position / 32], 100.0f);
    EXPECT_LT(maxima[1 - position / 32], 100.0f);
    data.values[position] = -std::nanf("");
    GroupMaxima(data.groups, maxima);
    EXPECT_TRUE(std::isnan(maxima[position / 32]));
  }
}

}  // namespace
}  // namespace intermix
