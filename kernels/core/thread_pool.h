// ThreadPool: persistent workers for data-parallel loops inside one op.
// The caller's thread is worker 0. One loop at a time; called from one thread (the engine thread).
// Workers spin for a short while after a loop and then sleep, so that an idle server uses no CPU.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

namespace intermix {

struct ThreadPoolOptions {
  int num_threads = 0;  // 0: as many as CPUs that this process may run on
  // Bind each worker but the caller, whose own threads would inherit it, to one of those CPUs.
  bool pin = false;
  bool spin = true;  // false: workers sleep at once, for loops that are far apart
};

// How many CPUs this process may run on.
int NumAllowedCpus();

class ThreadPool {
 public:
  explicit ThreadPool(const ThreadPoolOptions& options);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int num_threads() const;

  using Body = std::function<void(int64_t begin, int64_t end, int worker)>;

  // Runs body(begin, end, worker) over a partition of [0, count) into chunks of at most `grain`;
  // returns when all are done. Each worker walks through a range of its own in ascending order and
  // then helps others from the ends of theirs. A body must not depend on the partition.
  // Pass std::ref(lambda) where the loop may not allocate: std::function copies a large lambda.
  void ParallelFor(int64_t count, int64_t grain, const Body& body);

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace intermix
