// TaskPool: tasks run on its threads, in turn, and only so many wait.
#include "runtime/rpc/task_pool.h"

#include <chrono>
#include <future>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace intermix {
namespace {

using ::testing::ElementsAre;

// A task that runs until it is let go.
class HeldTask {
 public:
  explicit HeldTask(TaskPool& pool) {
    EXPECT_TRUE(pool.Post(1, [this] {
      began_.set_value(std::this_thread::get_id());
      go_.get_future().wait_for(std::chrono::minutes(1));
    }));
    std::future<std::thread::id> began = began_.get_future();
    EXPECT_EQ(began.wait_for(std::chrono::minutes(1)), std::future_status::ready);
    thread_ = began.get();
  }
  void LetGo() { go_.set_value(); }
  std::thread::id thread() const { return thread_; }

 private:
  std::promise<std::thread::id> began_;
  std::promise<void> go_;
  std::thread::id thread_;
};

TEST(TaskPoolTest, RunsTasksBesideEachOtherOnItsThreads) {
  TaskPool pool(2, 100);
  HeldTask first(pool);
  HeldTask second(pool);
  EXPECT_NE(first.thread(), second.thread());
  EXPECT_NE(first.thread(), std::this_thread::get_id());
  first.LetGo();
  second.LetGo();
  pool.Stop();
}

TEST(TaskPoolTest, LetsOnlySoManyBytesWait) {
  TaskPool pool(1, 100);
  HeldTask held(pool);
  std::vector<int> ran;
  std::promise<void> done;
  std::promise<void> ran_large;
  EXPECT_TRUE(pool.Post(1000, [&] {
    ran.push_back(1);
    ran_large.set_value();
  })) << "one may wait, however large";
  EXPECT_FALSE(pool.Post(1, [&] { ran.push_back(2); }));
  held.LetGo();
  EXPECT_EQ(ran_large.get_future().wait_for(std::chrono::minutes(1)), std::future_status::ready);
  HeldTask after(pool);
  EXPECT_TRUE(pool.Post(60, [&] { ran.push_back(3); }));
  EXPECT_TRUE(pool.Post(40, [&] { done.set_value(); }));
  EXPECT_FALSE(pool.Post(1, [&] { ran.push_back(4); }));
  after.LetGo();
  EXPECT_EQ(done.get_future().wait_for(std::chrono::minutes(1)), std::future_status::ready);
  EXPECT_THAT(ran, ElementsAre(1, 3));
  pool.Stop();
}

TEST(TaskPoolTest, DropsWhatWaitsWhenItStops) {
  TaskPool pool(1, 100);
  auto token = std::make_shared<int>();
  {
    HeldTask held(pool);
    EXPECT_TRUE(pool.Post(1, [token] { ADD_FAILURE() << "it was dropped"; }));
    std::thread stopper([&pool] { pool.Stop(); });
    while (pool.Post(0, [] {})) {  // until it is stopping
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    held.LetGo();
    stopper.join();
  }
}

}  // namespace
}  // namespace intermix
