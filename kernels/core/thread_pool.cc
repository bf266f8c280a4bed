#include "kernels/core/thread_pool.h"

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

#include "kernels/core/check.h"

namespace intermix {
namespace {

// About 50 microseconds: longer than the gap between two ops of one step, shorter than any wait
// for a request.
constexpr int kSpinsBeforeSleep = 4000;

// The CPUs that this process may run on.
std::vector<int> AllowedCpus() {
  cpu_set_t set;
  CPU_ZERO(&set);
  std::vector<int> cpus;
  if (sched_getaffinity(0, sizeof(set), &set) == 0) {
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
      if (CPU_ISSET(cpu, &set)) cpus.push_back(cpu);
    }
  }
  // A machine with more CPUs than cpu_set_t holds: count them, forgo pinning.
  if (cpus.empty()) cpus.assign(std::max(1u, std::thread::hardware_concurrency()), -1);
  return cpus;
}

void PinThisThread(int cpu) {
  if (cpu < 0) return;
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  pthread_setaffinity_np(pthread_self(), sizeof(set), &set);  // only advice: a failure costs speed
}

void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

// The chunks of a loop that a worker has yet to run. It takes them from the front, so that it walks
// through memory as a prefetcher expects; workers that have none left take from the back.
class alignas(64) Share {
 public:
  void Set(int64_t begin, int64_t end) {
    range_.store(Pack(static_cast<uint64_t>(begin), static_cast<uint64_t>(end)),
                 std::memory_order_relaxed);
  }
  // False if nothing is left.
  bool TakeFirst(int64_t& chunk) { return Take(chunk, /*first=*/true); }
  bool TakeLast(int64_t& chunk) { return Take(chunk, /*first=*/false); }

 private:
  static constexpr uint64_t Pack(uint64_t begin, uint64_t end) { return begin << 32 | end; }

  bool Take(int64_t& chunk, bool first) {
    uint64_t range = range_.load(std::memory_order_relaxed);
    for (;;) {
      const uint64_t begin = range >> 32;
      const uint64_t end = range & 0xFFFFFFFFu;
      if (begin >= end) return false;
      const uint64_t rest = first ? Pack(begin + 1, end) : Pack(begin, end - 1);
      if (range_.compare_exchange_weak(range, rest, std::memory_order_relaxed)) {
        chunk = static_cast<int64_t>(first ? begin : end - 1);
        return true;
      }
    }
  }

  std::atomic<uint64_t> range_{0};  // both ends in one, so that they change together
};

}  // namespace

int NumAllowedCpus() { return static_cast<int>(AllowedCpus().size()); }

// A loop is open while its caller hands out chunks. Workers join an open loop and leave it; the
// caller closes it when no chunk is left and waits for those inside, never for a worker that is
// still asleep. The loop's fields change only while it is closed and empty.
class ThreadPool::Impl {
 public:
  explicit Impl(const ThreadPoolOptions& options) : cpus_(AllowedCpus()), pin_(options.pin) {
    CHECK_GE(options.num_threads, 0);
    const int available = static_cast<int>(cpus_.size());
    const int num_threads = options.num_threads > 0 ? options.num_threads : available;
    spins_ = options.spin && num_threads <= available ? kSpinsBeforeSleep : 0;
    shares_ = std::vector<Share>(static_cast<size_t>(num_threads));
    for (int worker = 1; worker < num_threads; ++worker) {
      threads_.emplace_back([this, worker] { WorkerMain(worker); });
    }
  }

  ~Impl() {
    stop_.store(true, std::memory_order_relaxed);
    WakeWorkers();
    for (std::thread& thread : threads_) thread.join();
  }

  int num_threads() const { return static_cast<int>(threads_.size()) + 1; }

  void ParallelFor(int64_t count, int64_t grain, const Body& body) {
    CHECK_GT(grain, 0);
    if (threads_.empty() || count <= grain) {
      for (int64_t begin = 0; begin < count; begin += grain) {
        body(begin, std::min(begin + grain, count), 0);
      }
      return;
    }
    body_ = &body;
    count_ = count;
    grain_ = grain;
    const int64_t chunks = (count + grain - 1) / grain;
    CHECK_LE(chunks, int64_t{UINT32_MAX});
    for (int64_t w = 0; w < num_threads(); ++w) {
      shares_[static_cast<size_t>(w)].Set(chunks * w / num_threads(),
                                          chunks * (w + 1) / num_threads());
    }
    state_.store(kOpen, std::memory_order_release);
    WakeWorkers();
    RunChunks(0);
    state_.fetch_and(~kOpen, std::memory_order_relaxed);
    for (int spins = 0; state_.load(std::memory_order_acquire) != 0; ++spins) {
      if (spins < spins_) {
        Pause();
      } else {
        std::this_thread::yield();
      }
    }
  }

 private:
  static constexpr uint32_t kOpen = 1u << 31;  // the bits below count the workers inside

  int CpuOf(int worker) const { return cpus_[static_cast<size_t>(worker) % cpus_.size()]; }

  void WakeWorkers() {
    epoch_.fetch_add(1, std::memory_order_release);
    epoch_.notify_all();
  }

  void RunChunk(int64_t chunk, int worker) {
    const int64_t begin = chunk * grain_;
    (*body_)(begin, std::min(begin + grain_, count_), worker);
  }

  void RunChunks(int worker) {
    int64_t chunk = 0;
    while (shares_[static_cast<size_t>(worker)].TakeFirst(chunk)) RunChunk(chunk, worker);
    for (int i = 1; i < num_threads(); ++i) {
      Share& other = shares_[static_cast<size_t>((worker + i) % num_threads())];
      while (other.TakeLast(chunk)) RunChunk(chunk, worker);
    }
  }

  bool Join() {
    uint32_t state = state_.load(std::memory_order_relaxed);
    while (state & kOpen) {
      if (state_.compare_exchange_weak(state, state + 1, std::memory_order_acquire,
                                       std::memory_order_relaxed)) {
        return true;
      }
    }
    return false;
  }

  void WorkerMain(int worker) {
    if (pin_) PinThisThread(CpuOf(worker));
    uint32_t seen = 0;
    for (;;) {
      for (int spins = 0; spins < spins_ && epoch_.load(std::memory_order_relaxed) == seen;
           ++spins) {
        Pause();
      }
      epoch_.wait(seen, std::memory_order_acquire);
      seen = epoch_.load(std::memory_order_acquire);
      if (stop_.load(std::memory_order_relaxed)) return;
      if (!Join()) continue;
      RunChunks(worker);
      state_.fetch_sub(1, std::memory_order_release);
    }
  }

  const std::vector<int> cpus_;
  const bool pin_;
  int spins_ = 0;

  // The loop in progress.
  const Body* body_ = nullptr;
  int64_t count_ = 0;
  int64_t grain_ = 1;
  std::vector<Share> shares_;  // of each worker

  // On cache lines of their own: every worker polls or bumps them.
  alignas(64) std::atomic<uint32_t> epoch_{0};
  alignas(64) std::atomic<uint32_t> state_{0};
  alignas(64) std::atomic<bool> stop_{false};

  std::vector<std::thread> threads_;  // last: they use everything above
};

ThreadPool::ThreadPool(const ThreadPoolOptions& options) : impl_(std::make_unique<Impl>(options)) {}
ThreadPool::~ThreadPool() = default;

int ThreadPool::num_threads() const { return impl_->num_threads(); }

void ThreadPool::ParallelFor(int64_t count, int64_t grain, const Body& body) {
  impl_->ParallelFor(count, grain, body);
}

}  // namespace intermix
