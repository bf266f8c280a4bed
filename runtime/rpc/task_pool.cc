#include "runtime/rpc/task_pool.h"

#include <utility>

namespace intermix {

TaskPool::TaskPool(int num_threads, size_t max_waiting_bytes)
    : max_waiting_bytes_(max_waiting_bytes) {
  for (int i = 0; i < num_threads; ++i) threads_.emplace_back([this] { Run(); });
}

TaskPool::~TaskPool() { Stop(); }

bool TaskPool::Post(size_t bytes, std::function<void()> task) {
  {
    const std::lock_guard lock(mutex_);
    if (stop_) return false;
    if (!waiting_.empty() && waiting_bytes_ + bytes > max_waiting_bytes_) return false;
    waiting_bytes_ += bytes;
    waiting_.push_back({.bytes = bytes, .run = std::move(task)});
  }
  wake_.notify_one();
  return true;
}

void TaskPool::Stop() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wake_.notify_all();
  for (std::thread& thread : threads_) {
    if (thread.joinable()) thread.join();
  }
}

void TaskPool::Run() {
  while (true) {
    Task task;
    {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [this] { return stop_ || !waiting_.empty(); });
      if (stop_) return;
      task = std::move(waiting_.front());
      waiting_.pop_front();
      waiting_bytes_ -= task.bytes;
    }
    task.run();
  }
}

}  // namespace intermix
