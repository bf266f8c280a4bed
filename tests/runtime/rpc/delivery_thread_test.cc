// DeliveryThread: every item that is posted is delivered, by one thread, and no dead one.
#include "runtime/rpc/delivery_thread.h"

#include <chrono>
#include <future>

#include "gtest/gtest.h"

namespace intermix {
namespace {

class Item final : public Deliverable {
 public:
  explicit Item(int goal) : goal_(goal) {}
  void Deliver() override {
    const int seen = posted.load();
    delivered = seen;
    if (seen == goal_ && !done_set_) {
      done_set_ = true;
      done.set_value(std::this_thread::get_id());
    }
  }
  std::atomic<int> posted{0};
  std::atomic<int> delivered{0};
  std::promise<std::thread::id> done;

 private:
  const int goal_;
  bool done_set_ = false;
};

TEST(DeliveryThreadTest, DeliversAfterTheLastPost) {
  constexpr int kPosts = 5000;
  DeliveryThread delivery;
  const auto one = std::make_shared<Item>(kPosts);
  const auto two = std::make_shared<Item>(kPosts);
  const auto post = [&delivery](const std::shared_ptr<Item>& item) {
    for (int i = 0; i < kPosts; ++i) {
      ++item->posted;
      delivery.Post(item);
    }
  };
  std::thread other([&] { post(two); });
  post(one);
  other.join();
  auto thread_one = one->done.get_future();
  auto thread_two = two->done.get_future();
  ASSERT_EQ(thread_one.wait_for(std::chrono::minutes(1)), std::future_status::ready);
  ASSERT_EQ(thread_two.wait_for(std::chrono::minutes(1)), std::future_status::ready);
  const std::thread::id id = thread_one.get();
  EXPECT_EQ(id, thread_two.get());
  EXPECT_NE(id, std::this_thread::get_id());
}

TEST(DeliveryThreadTest, SkipsItemsThatAreGone) {
  DeliveryThread delivery;
  std::weak_ptr<Item> gone;
  {
    const auto item = std::make_shared<Item>(1);
    gone = item;
  }
  delivery.Post(gone);
  const auto alive = std::make_shared<Item>(1);
  ++alive->posted;
  delivery.Post(alive);
  EXPECT_EQ(alive->done.get_future().wait_for(std::chrono::minutes(1)), std::future_status::ready);
}

}  // namespace
}  // namespace intermix
