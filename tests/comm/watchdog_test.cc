// Watchdog: it speaks when work takes too long or a transport reports a problem, and only then.
#include "comm/watchdog.h"

#include <future>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace intermix {
namespace {

using std::chrono::milliseconds;
using ::testing::ElementsAre;

// What the watchdog said, once it did.
class Ear {
 public:
  std::function<void(const std::string&)> listener() {
    return [this](const std::string& sentence) { said_.set_value(sentence); };
  }
  std::string Wait() {
    auto future = said_.get_future();
    if (future.wait_for(std::chrono::seconds(60)) != std::future_status::ready) return "nothing";
    return future.get();
  }

 private:
  std::promise<std::string> said_;
};

std::string Nothing() { return ""; }

// It speaks first: letting go may take long, or end the process in another thread.
TEST(WatchdogTest, WorkThatDoesNotEndIsNamedWithItsRankBeforeAnyoneLetsGo) {
  Ear ear;
  std::vector<std::string> heard;
  Watchdog dog({.who = "rank 3",
                .limit = milliseconds(20),
                .poll = milliseconds(5),
                .say = [&](const std::string& sentence) { heard.push_back(sentence); },
                .end = ear.listener()});
  dog.Watch({.problem = Nothing,
             .latest = [] { return "all-gather of 64 bytes"; },
             .let_go = [&] { heard.push_back("let go"); }});
  dog.Watch({.problem = Nothing, .latest = Nothing, .let_go = [] {}});
  const Watchdog::Work work(dog, "step 12");
  const std::string sentence = ear.Wait();
  EXPECT_EQ(sentence,
            "rank 3: step 12 has not ended after 20 ms: another rank is gone or stuck; last begun: "
            "all-gather of 64 bytes");
  EXPECT_THAT(heard, ElementsAre(sentence, "let go"));
}

TEST(WatchdogTest, ATransportsProblemIsPassedOn) {
  Ear ear;
  std::atomic<bool> broken = false;
  Watchdog dog({.who = "rank 1", .poll = milliseconds(1), .end = ear.listener()});
  const auto watch = [&](std::function<std::string()> problem) {
    return dog.Watch({.problem = std::move(problem), .latest = Nothing, .let_go = [] {}});
  };
  watch(Nothing);
  watch([&] { return broken ? "the link is down" : ""; });
  dog.Forget(watch(Nothing));
  const Watchdog::Work work(dog, "step 4");
  broken = true;
  EXPECT_EQ(ear.Wait(), "rank 1: the link is down, in step 4");
}

// Work of every kind passes while the watchdog looks on at every chance it gets.
TEST(WatchdogTest, WorkThatEndsInTimeIsLeftAlone) {
  Ear ear;
  int looks = 0;
  std::promise<void> looked_often;
  {
    Watchdog dog({.who = "rank 0",
                  .limit = std::chrono::minutes(10),
                  .poll = milliseconds(1),
                  .end = ear.listener()});
    dog.Watch({.problem =
                   [&] {
                     if (++looks == 20) looked_often.set_value();
                     return "";
                   },
               .latest = Nothing,
               .let_go = [] { FAIL(); }});
    for (int i = 0; i < 100; ++i) const Watchdog::Work work(dog, "a step");
    const Watchdog::Work work(dog, "the last step");
    ASSERT_EQ(looked_often.get_future().wait_for(std::chrono::seconds(60)),
              std::future_status::ready);
  }
}

TEST(WatchdogDeathTest, EndsTheProcessUnlessToldOtherwise) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_DEATH(
      {
        Watchdog dog({.who = "rank 2", .limit = milliseconds(1), .poll = milliseconds(1)});
        const Watchdog::Work work(dog, "step 5");
        std::promise<void>().get_future().wait_for(std::chrono::seconds(60));
      },
      "intermix: rank 2: step 5 has not ended.*intermix: fatal: rank 2: step 5 has not ended");
}

}  // namespace
}  // namespace intermix
