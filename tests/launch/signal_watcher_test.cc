// SignalWatcher: what the first signal, the second one and an impatient grace do.
#include "launch/signal_watcher.h"

#include <unistd.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <future>

#include "gtest/gtest.h"

namespace intermix {
namespace {

using ::testing::ExitedWithCode;

constexpr absl::Duration kLong = absl::Minutes(1);

TEST(SignalWatcherTest, TheFirstSignalRunsTheActionOnAnotherThread) {
  SignalWatcher watcher;
  watcher.Start(kLong);
  std::promise<std::thread::id> ran;
  watcher.SetAction([&ran] { ran.set_value(std::this_thread::get_id()); });
  EXPECT_EQ(watcher.signal(), 0);
  kill(getpid(), SIGTERM);
  auto thread = ran.get_future();
  ASSERT_EQ(thread.wait_for(std::chrono::minutes(1)), std::future_status::ready);
  EXPECT_NE(thread.get(), std::this_thread::get_id());
  EXPECT_EQ(watcher.signal(), SIGTERM);
}

TEST(SignalWatcherTest, WithoutASignalItJustEnds) {
  int runs = 0;
  {
    SignalWatcher watcher;
    watcher.Start(kLong);
    watcher.SetAction([&runs] { ++runs; });
  }
  EXPECT_EQ(runs, 0);
}

TEST(SignalWatcherTest, TriggerRunsTheActionOnce) {
  SignalWatcher watcher;
  watcher.Start(kLong);
  std::promise<void> ran;
  std::atomic<int> runs{0};
  watcher.SetAction([&] {
    if (++runs == 1) ran.set_value();
  });
  watcher.Trigger();
  watcher.Trigger();
  EXPECT_EQ(ran.get_future().wait_for(std::chrono::minutes(1)), std::future_status::ready);
  watcher.Trigger();
  watcher.SetAction([] {});
  EXPECT_EQ(runs, 1);
  EXPECT_EQ(watcher.signal(), 0);
}

TEST(SignalWatcherTest, AnActionMayComeAfterTheTrigger) {
  SignalWatcher watcher;
  watcher.Start(kLong);
  watcher.Trigger();
  std::promise<void> ran;
  watcher.SetAction([&ran] { ran.set_value(); });
  EXPECT_EQ(ran.get_future().wait_for(std::chrono::minutes(1)), std::future_status::ready);
}

class SignalWatcherDeathTest : public ::testing::Test {
 protected:
  // Each death test is a process of its own, from its start.
  void SetUp() override { GTEST_FLAG_SET(death_test_style, "threadsafe"); }
};

// Lives until the watcher ends the process; then exits with 0, which no test expects.
void WaitToBeEnded() {
  sleep(60);
  _exit(0);
}

TEST_F(SignalWatcherDeathTest, ASignalBeforeThereIsAnActionEndsTheProcess) {
  EXPECT_EXIT(
      {
        SignalWatcher watcher;
        watcher.Start(kLong);
        kill(getpid(), SIGINT);
        WaitToBeEnded();
      },
      ExitedWithCode(128 + SIGINT), "stopped before it was ready");
}

TEST_F(SignalWatcherDeathTest, ASecondSignalEndsTheProcess) {
  EXPECT_EXIT(
      {
        SignalWatcher watcher;
        watcher.Start(kLong);
        watcher.SetAction([] {});
        for (int i = 0; i < 600; ++i) {  // those of the first half second count as one
          kill(getpid(), SIGTERM);
          usleep(100000);
        }
        _exit(0);
      },
      ExitedWithCode(128 + SIGTERM), "stopped without waiting");
}

TEST_F(SignalWatcherDeathTest, TheGraceOfATriggerEndsTheProcess) {
  EXPECT_EXIT(
      {
        SignalWatcher watcher;
        watcher.Start(absl::Milliseconds(50));
        watcher.SetAction([] {});
        watcher.Trigger();
        WaitToBeEnded();
      },
      ExitedWithCode(128 + SIGTERM), "did not stop in time");
}

TEST_F(SignalWatcherDeathTest, TheGraceEndsTheProcess) {
  EXPECT_EXIT(
      {
        SignalWatcher watcher;
        watcher.Start(absl::Milliseconds(50));
        watcher.SetAction([] {});
        kill(getpid(), SIGTERM);
        WaitToBeEnded();
      },
      ExitedWithCode(128 + SIGTERM), "did not stop in time");
}

}  // namespace
}  // namespace intermix
