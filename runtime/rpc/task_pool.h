// TaskPool: a few threads for work that takes longer than gRPC's own threads may be held, which
// also answer heartbeats and health checks: turning text into tokens.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace intermix {

class TaskPool {
 public:
  // `max_waiting_bytes` of tasks may wait, and one task in any case.
  TaskPool(int num_threads, size_t max_waiting_bytes);
  ~TaskPool();  // Stop
  TaskPool(const TaskPool&) = delete;
  TaskPool& operator=(const TaskPool&) = delete;

  // Any thread: runs `task`, which holds about `bytes`, on one of the threads, first come first
  // served. False where too many wait already, and after Stop.
  [[nodiscard]] bool Post(size_t bytes, std::function<void()> task);

  // Waits for the tasks that run and drops those that wait. Idempotent; from one thread.
  void Stop();

 private:
  struct Task {
    size_t bytes = 0;
    std::function<void()> run;
  };

  void Run();

  const size_t max_waiting_bytes_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<Task> waiting_;  // from here on guarded by mutex_
  size_t waiting_bytes_ = 0;
  bool stop_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace intermix
