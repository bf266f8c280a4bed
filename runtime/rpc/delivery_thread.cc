#include "runtime/rpc/delivery_thread.h"

#include <utility>

namespace intermix {

DeliveryThread::DeliveryThread() : thread_([this] { Run(); }) {}

DeliveryThread::~DeliveryThread() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wake_.notify_one();
  thread_.join();
}

void DeliveryThread::Post(const std::weak_ptr<Deliverable>& item) {
  const std::shared_ptr<Deliverable> alive = item.lock();
  if (alive == nullptr || alive->queued_.exchange(true)) return;
  {
    const std::lock_guard lock(mutex_);
    queue_.push_back(item);
  }
  wake_.notify_one();
}

void DeliveryThread::Run() {
  std::vector<std::weak_ptr<Deliverable>> batch;
  while (true) {
    {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [this] { return stop_ || !queue_.empty(); });
      if (stop_) return;
      std::swap(batch, queue_);
    }
    for (const std::weak_ptr<Deliverable>& item : batch) {
      const std::shared_ptr<Deliverable> alive = item.lock();
      if (alive == nullptr) continue;
      alive->queued_ = false;  // before Deliver: what comes from here on is posted again
      alive->Deliver();
    }
    batch.clear();
  }
}

}  // namespace intermix
