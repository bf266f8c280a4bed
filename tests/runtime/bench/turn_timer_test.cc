// Medians, repeats and fractions, with a clock that only moves when work says so.
#include "runtime/bench/turn_timer.h"

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "tests/testing/run_ranks.h"

namespace intermix {
namespace {

TEST(MedianTest, IsTheMiddleOne) {
  EXPECT_EQ(Median({}), 0.0);
  EXPECT_EQ(Median({3.0}), 3.0);
  EXPECT_EQ(Median({5.0, 1.0, 9.0}), 5.0);
  EXPECT_EQ(Median({4.0, 1.0, 2.0, 9.0}), 3.0);
}

class TurnTimerTest : public ::testing::Test {
 protected:
  // 100 int8 operations and 10 bytes a second.
  TurnTimer Timer(int turns) {
    const auto limit = [this](Resource resource, double amount, double seconds) {
      return Limit{.resource = resource, .amount = amount, .run = [this, resource, seconds] {
                     order_ += resource == Resource::kInt8 ? "i" : "b";
                     now_ += seconds * slowness_;
                   }};
    };
    return TurnTimer({limit(Resource::kInt8, 200.0, 2.0), limit(Resource::kBytes, 10.0, 1.0)},
                     [this] { ++finished_; },
                     {.turns = turns, .min_seconds = 1.0, .clock = [this] { return now_; }});
  }

  double now_ = 0.0;
  double slowness_ = 1.0;
  int finished_ = 0;
  std::string order_;
};

TEST_F(TurnTimerTest, FractionIsWorkPerSecondOverTheLimit) {
  TurnTimer timer = Timer(3);
  const Measurement m = timer.Measure({.int8_ops = 80.0, .bytes = 5.0}, [this] { now_ += 2.0; });
  EXPECT_DOUBLE_EQ(m.seconds, 2.0);
  EXPECT_DOUBLE_EQ(m.spread, 0.0);
  EXPECT_DOUBLE_EQ(m.fractions[static_cast<size_t>(Resource::kInt8)], 0.4);
  EXPECT_DOUBLE_EQ(m.fractions[static_cast<size_t>(Resource::kBytes)], 0.25);
  EXPECT_EQ(m.fractions[static_cast<size_t>(Resource::kFloat)], 0.0);
}

TEST_F(TurnTimerTest, LimitsAndWorkTakeTurns) {
  TurnTimer timer = Timer(3);
  timer.Measure({.int8_ops = 1.0}, [this] {
    order_ += "w";
    now_ += 1.0;
  });
  EXPECT_EQ(order_,
            "ww"
            "iw"
            "iw"
            "iw");
}

TEST_F(TurnTimerTest, AMachineThatSlowsDownKeepsItsFractions) {
  TurnTimer timer = Timer(5);
  const Measurement m = timer.Measure({.int8_ops = 50.0}, [this] {
    now_ += 1.0 * slowness_;
    slowness_ *= 2.0;  // before the next turn of limit and work
  });
  EXPECT_DOUBLE_EQ(m.fractions[static_cast<size_t>(Resource::kInt8)], 0.5);
  EXPECT_GT(m.spread, 1.0);
}

TEST_F(TurnTimerTest, OneSlowTurnDoesNotCount) {
  TurnTimer timer = Timer(3);
  int runs = 0;
  const Measurement m =
      timer.Measure({.int8_ops = 50.0}, [&] { now_ += ++runs == 4 ? 100.0 : 1.0; });
  EXPECT_DOUBLE_EQ(m.seconds, 1.0);
  EXPECT_DOUBLE_EQ(m.fractions[static_cast<size_t>(Resource::kInt8)], 0.5);
}

TEST_F(TurnTimerTest, ShortWorkIsRepeatedAndFinishedOnce) {
  TurnTimer timer = Timer(1);
  int runs = 0;
  const Measurement m = timer.Measure({}, [&] {
    ++runs;
    now_ += 0.001;
  });
  EXPECT_NEAR(m.seconds, 0.001, 1e-12);
  // One run to warm up, 1, 8, 64 and 512 to learn how many make a turn, and the turn of 1000.
  EXPECT_NEAR(runs, 1 + 1 + 8 + 64 + 512 + 1000, 1);
  EXPECT_EQ(finished_, 6);
}

TEST(TurnTimerRanksTest, RanksRepeatTogetherWhateverTheirSpeed) {
  std::vector<int> runs(2);
  RunRanks(2, [&](std::unique_ptr<Communicator> world) {
    double now = 0.0;
    const int rank = world->rank();
    TurnTimer timer({{.resource = Resource::kInt8, .amount = 1.0, .run = [&] { now += 1.0; }}},
                    nullptr,
                    {.turns = 2,
                     .min_seconds = 1.0,
                     .clock = [&] { return now; },
                     .largest =
                         [&](double value) {
                           auto largest = static_cast<float>(value);
                           world->AllReduceMax(&largest, 1);
                           return static_cast<double>(largest);
                         }});
    // Work that steps both ranks, and of which one has no share: a rank that counts otherwise
    // would wait for the other for ever.
    timer.Measure({.int8_ops = rank == 0 ? 8.0 : 0.0}, [&] {
      world->Barrier();
      ++runs[static_cast<size_t>(rank)];
      now += rank == 0 ? 0.01 : 0.001;
    });
  });
  EXPECT_EQ(runs[0], runs[1]);
  EXPECT_GT(runs[0], 200);
}

TEST_F(TurnTimerTest, LimitsAloneAreRates) {
  TurnTimer timer = Timer(3);
  const std::vector<TurnTimer::LimitRate> rates = timer.MeasureLimits();
  ASSERT_EQ(rates.size(), 2u);
  EXPECT_DOUBLE_EQ(rates[0].rate, 100.0);
  EXPECT_DOUBLE_EQ(rates[1].rate, 10.0);
  EXPECT_EQ(rates[1].limit->resource, Resource::kBytes);
  EXPECT_EQ(rates[0].spread, 0.0);
}

}  // namespace
}  // namespace intermix
