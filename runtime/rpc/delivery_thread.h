// DeliveryThread: the one thread on which streams take what the engine has for them, so that the
// engine thread does nothing for a token but put a pointer into a list.
#pragma once

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace intermix {

class Deliverable {
 public:
  virtual ~Deliverable() = default;
  virtual void Deliver() = 0;

 private:
  friend class DeliveryThread;
  std::atomic<bool> queued_{false};
};

class DeliveryThread {
 public:
  DeliveryThread();
  ~DeliveryThread();  // what is still queued is dropped
  DeliveryThread(const DeliveryThread&) = delete;
  DeliveryThread& operator=(const DeliveryThread&) = delete;

  // Any thread: calls item.Deliver() on the delivery thread soon, once however often it is posted
  // before that; not at all where the item is gone by then. Holds a lock for a few instructions.
  void Post(const std::weak_ptr<Deliverable>& item);

 private:
  void Run();

  std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<std::weak_ptr<Deliverable>> queue_;  // guarded by mutex_
  bool stop_ = false;                              // guarded by mutex_
  std::thread thread_;
};

}  // namespace intermix
