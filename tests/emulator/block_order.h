// What fences and atomics order between the blocks of one launch (PTX ISA, "Memory Consistency
// Model"): a block fences, then adds to a counter; another block adds to the same counter, then
// fences; what the first did before its fence is then ordered before what the second does.
//
// A fence speaks for its thread, for what barriers ordered before it, and, after the next barrier,
// for every thread of the block.
#pragma once

#include <cstdint>
#include <memory>
#include <unordered_map>
#include <vector>

namespace emu {

struct ThreadState;
struct BlockState;

// Accesses of one block, by their stamps, that its fences have made visible.
struct Fenced {
  uint64_t before = 0;            // of every thread
  std::vector<uint64_t> threads;  // of each thread
};

// What an atomic tells those who see it.
struct Release {
  uint64_t block_start = 0;
  std::shared_ptr<const Fenced> fenced;  // by the block, up to its last barrier
  unsigned int thread = 0;               // and by this thread
  uint64_t own_before = 0;
  uint64_t all_before = 0;
  uint64_t atomic = 0;  // the stamp of the atomic itself

  bool Covers(uint64_t stamp) const;
  bool operator==(const Release&) const = default;
};

// Of one thread, emptied at the start of each block.
struct ThreadFences {
  uint64_t own_before = 0;        // its last fence
  uint64_t all_before = 0;        // what was ordered before that fence
  std::vector<Release> seen;      // by its atomics since its last fence
  std::vector<Release> acquired;  // by its atomics before a fence
  size_t block_acquired = 0;      // of BlockFences::seen, how many its fence followed
};

// Of the running block.
struct BlockFences {
  std::shared_ptr<const Fenced> fenced;
  std::vector<Release> seen;      // by any thread, before the last barrier
  std::vector<Release> acquired;  // for every thread
  bool active = false;            // some thread fenced since the last barrier, or saw a release
};

class BlockOrder {
 public:
  void StartLaunch() { variables_.clear(); }
  // An atomic of the running thread at a global address: before its access is checked, and after.
  void StartAtomic(ThreadState& thread);
  void FinishAtomic(ThreadState& thread, uintptr_t address);
  void Fence(ThreadState& thread);
  // A barrier of the block whose threads are [threads, threads + num_threads).
  void Barrier(BlockState& block, ThreadState* threads, int num_threads);
  // True where an access of an earlier block of this launch is ordered before `thread`.
  bool Ordered(const ThreadState& thread, uint64_t stamp) const;
  // The first atomic at `address` that nothing orders before `thread`, 0 where all are.
  uint64_t UnorderedAtomic(const ThreadState& thread, uintptr_t address) const;

 private:
  struct Variable {
    std::vector<Release> releases;
    std::vector<uint64_t> atomics;  // stamps
  };
  std::unordered_map<uintptr_t, Variable> variables_;
};

}  // namespace emu
