// Watchdog: it speaks when work takes too long or a transport reports a problem, and only then.
#include "comm/watchdog.h"

#include <future>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace intermix {
namespace {

using std::chrono::milliseconds;
using ::testing::HasSubstr;
using ::testing::StartsWith;

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

TEST(WatchdogTest, WorkThatDoesNotEndIsNamedWithItsRank) {
  Ear ear;
  bool let_go = false;
  Watchdog dog(
      {.who = "rank 3", .limit = milliseconds(20), .poll = milliseconds(5), .end = ear.listener()});
  dog.Watch({.problem = [] { return ""; }, .let_go = [&] { let_go = true; }});
  const Watchdog::Work work(dog, "step 12");
  const std::string sentence = ear.Wait();
  EXPECT_THAT(sentence, StartsWith("rank 3: step 12 has not ended after 20 ms"));
  EXPECT_TRUE(let_go);
}

TEST(WatchdogTest, ATransportsProblemIsPassedOn) {
  Ear ear;
  std::atomic<bool> broken = false;
  Watchdog dog({.who = "rank 1", .poll = milliseconds(1), .end = ear.listener()});
  const auto nothing = [] {};
  dog.Watch({.problem = [] { return ""; }, .let_go = nothing});
  dog.Watch({.problem = [&] { return broken ? "the link is down" : ""; }, .let_go = nothing});
  const int gone = dog.Watch({.problem = [] { return ""; }, .let_go = nothing});
  dog.Forget(gone);
  broken = true;
  EXPECT_EQ(ear.Wait(), "rank 1: the link is down");
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
      "intermix: fatal: rank 2: step 5 has not ended");
}

}  // namespace
}  // namespace intermix
