// kernels/core/thread_pool: every index exactly once, for any count, grain and number of threads;
// memory written by a body is visible to the caller; the CPUs asked for are the CPUs used.
#include "kernels/core/thread_pool.h"

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <functional>
#include <numeric>
#include <set>
#include <thread>
#include <vector>

#include "gtest/gtest.h"

namespace intermix {
namespace {

TEST(ThreadPoolTest, EveryIndexRunsExactlyOnceInChunksOfAtMostGrain) {
  for (int threads : {1, 2, 3, 7}) {
    ThreadPool pool({.num_threads = threads});
    ASSERT_EQ(pool.num_threads(), threads);
    for (int64_t count : {0, 1, 2, 15, 16, 17, 1000}) {
      for (int64_t grain : {1, 3, 16, 5000}) {
        std::vector<int> runs(static_cast<size_t>(count),
                              0);  // plain: a race would be a TSan report
        std::atomic<bool> chunks_are_legal = true;
        pool.ParallelFor(count, grain, [&](int64_t begin, int64_t end, int worker) {
          if (begin >= end || end - begin > grain || worker < 0 || worker >= threads) {
            chunks_are_legal = false;
          }
          for (int64_t i = begin; i < end; ++i) ++runs[static_cast<size_t>(i)];
        });
        EXPECT_TRUE(chunks_are_legal);
        EXPECT_EQ(std::count(runs.begin(), runs.end(), 1), count)
            << threads << " threads, count " << count << ", grain " << grain;
      }
    }
  }
}

TEST(ThreadPoolTest, BackToBackLoopsDoNotMixTheirBodies) {
  ThreadPool pool({.num_threads = 4});
  std::vector<int64_t> values(64);
  for (int64_t loop = 0; loop < 3000; ++loop) {
    pool.ParallelFor(64, 1, [&values, loop](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) values[static_cast<size_t>(i)] = loop + i;
    });
    const int64_t sum = std::accumulate(values.begin(), values.end(), int64_t{0});
    ASSERT_EQ(sum, 64 * loop + 63 * 64 / 2);
  }
}

// Two chunks that each wait for the other one to have begun finish only if two threads run them.
TEST(ThreadPoolTest, ChunksRunAtTheSameTimeAlsoAfterTheWorkersSlept) {
  ThreadPool pool({.num_threads = 2});
  for (int round = 0; round < 3; ++round) {
    std::atomic<int> begun = 0;
    std::atomic<int> workers_seen = 0;
    pool.ParallelFor(2, 1, [&](int64_t, int64_t, int worker) {
      begun.fetch_add(1);
      workers_seen.fetch_or(1 << worker);
      while (begun.load() < 2) std::this_thread::yield();
    });
    EXPECT_EQ(workers_seen.load(), 0b11);
    // Outlast the workers' spinning, so that the next round finds them asleep.
    for (int i = 0; i < 20000; ++i) std::this_thread::yield();
  }
}

// What lets a prefetcher run ahead: chunk after chunk of a worker's own half, then the other
// worker's last ones.
TEST(ThreadPoolTest, WorkersWalkThroughTheirOwnHalvesAndHelpFromTheEnd) {
  ThreadPool pool({.num_threads = 2});
  constexpr int64_t kHalf = 500;
  std::vector<int64_t> chunks[2];
  std::atomic<int> begun = 0;
  pool.ParallelFor(4 * kHalf, 2, [&](int64_t begin, int64_t, int worker) {
    if (chunks[worker].empty()) {
      begun.fetch_add(1);
      while (begun.load() < 2) std::this_thread::yield();
    }
    chunks[worker].push_back(begin / 2);
  });
  for (int64_t worker = 0; worker < 2; ++worker) {
    const std::vector<int64_t>& mine = chunks[worker];
    const auto own = static_cast<int64_t>(std::min<size_t>(mine.size(), kHalf));
    const int64_t other_end = 2 * kHalf - worker * kHalf;
    for (int64_t i = 0; i < static_cast<int64_t>(mine.size()); ++i) {
      const int64_t expected = i < own ? worker * kHalf + i : other_end - 1 - (i - own);
      ASSERT_EQ(mine[static_cast<size_t>(i)], expected)
          << "worker " << worker << ", its chunk " << i;
    }
  }
}

TEST(ThreadPoolTest, OneThreadRunsOnTheCallerInOrder) {
  ThreadPool pool({.num_threads = 1});
  const std::thread::id caller = std::this_thread::get_id();
  std::vector<int64_t> begins;
  pool.ParallelFor(10, 4, [&](int64_t begin, int64_t, int worker) {
    EXPECT_EQ(std::this_thread::get_id(), caller);
    EXPECT_EQ(worker, 0);
    begins.push_back(begin);
  });
  EXPECT_EQ(begins, (std::vector<int64_t>{0, 4, 8}));
}

TEST(ThreadPoolTest, DefaultIsOneThreadForEachCpuAllowed) {
  cpu_set_t set;
  CPU_ZERO(&set);
  ASSERT_EQ(sched_getaffinity(0, sizeof(set), &set), 0);
  EXPECT_EQ(ThreadPool({}).num_threads(), CPU_COUNT(&set));
}

// The caller makes other threads, which would all have its CPU.
TEST(ThreadPoolTest, PinnedWorkersStayOnTheirCpuAndTheCallerIsFree) {
  ThreadPool pool({.num_threads = 0, .pin = true});
  const int threads = pool.num_threads();
  std::vector<int> cpu_of(static_cast<size_t>(threads), -1);
  std::atomic<int> begun = 0;
  pool.ParallelFor(threads, 1, [&](int64_t, int64_t, int worker) {
    cpu_set_t set;
    CPU_ZERO(&set);
    sched_getaffinity(0, sizeof(set), &set);
    if (CPU_COUNT(&set) == 1) cpu_of[static_cast<size_t>(worker)] = sched_getcpu();
    begun.fetch_add(1);
    while (begun.load() < threads) std::this_thread::yield();  // one chunk for each worker
  });
  EXPECT_EQ(NumAllowedCpus(), threads);
  cpu_of.erase(cpu_of.begin());
  EXPECT_EQ(std::count(cpu_of.begin(), cpu_of.end(), -1), 0);
  EXPECT_EQ(std::set<int>(cpu_of.begin(), cpu_of.end()).size(), cpu_of.size());
}

TEST(ThreadPoolTest, ReferencedBodyIsNotCopied) {
  ThreadPool pool({.num_threads = 2});
  struct Body {
    Body() = default;
    Body(const Body&) { ADD_FAILURE() << "copied"; }
    void operator()(int64_t begin, int64_t end, int) { total.fetch_add(end - begin); }
    std::atomic<int64_t> total = 0;
    char padding[128] = {};
  } body;
  pool.ParallelFor(100, 7, std::ref(body));
  EXPECT_EQ(body.total.load(), 100);
}

}  // namespace
}  // namespace intermix
