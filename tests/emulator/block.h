// Running one block of a kernel: its threads are fibers that switch only at barriers and warp
// collectives. What the instructions (ptx_*.cc) and the shadow checks need to know of them.
//
// A device runs one block at a time, on the host thread that waits for it.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "tests/emulator/block_order.h"
#include "tests/emulator/emulator.h"
#include "tests/emulator/fiber.h"
#include "tests/emulator/include/vector_types.h"
// vector_types.h first
#include "tests/emulator/include/driver_types.h"

namespace emu {

inline constexpr int kWarpLanes = 32;
inline constexpr int kMaxThreads = 1024;

enum class Collective {
  kNone,
  kShuffle,
  kBallot,
  kSyncWarp,
  kMma,
  kLdmatrix,
  kWgmmaWait,
  kSyncBlock
};
enum class Wait { kReady, kInWarp, kAtBarrier, kExited };

// Answers whether what an earlier operation of the device did is ordered before this one.
class History {
 public:
  virtual ~History() = default;
  // Of a kernel that starts early, before it waits for what is ahead of it, or `waited`.
  virtual bool Ordered(uint64_t time, bool waited) const = 0;
  virtual std::string NameOf(uint64_t time) const = 0;
  virtual bool WasFreed(uintptr_t address) const = 0;
  virtual std::string DescribeAddress(uintptr_t address) const = 0;
};

struct AsyncCopy {
  char* shared;
  const char* global;
  bool valid;
};

// Of a wgmma: D[64, columns] of products of int8, or of bfloat16; B transposed or not.
struct MmaShape {
  bool bf16;
  bool transposed;
  int columns;
};

// A lane's part of a wgmma that its warp has not waited for. Registers are read when it runs.
struct AsyncMma {
  MmaShape shape;
  void* d;            // [columns / 8][4] int32, or float
  const uint32_t* a;  // [4]
  const char* rows;
  bool add;
};

struct WarpState {
  int index = 0;
  int num_lanes = 0;
  uint64_t stamp = 0;  // time of the last barrier of this warp or its block, as a stamp
  int arrived = 0;     // lanes waiting in `kind`
  Collective kind = Collective::kNone;
  const void* site = nullptr;
  std::array<void*, kWarpLanes> arguments{};
};

struct BlockState;

struct ThreadState {
  uint3 index{};
  unsigned int id = 0;
  uint64_t stamp = 0;          // of the accesses it makes now
  bool waited = true;          // for the kernels ahead
  uint64_t ordered_until = 0;  // stamps before: operations ordered before what it does now
  Wait wait = Wait::kReady;
  const void* site = nullptr;  // where it waits
  WarpState* warp = nullptr;
  BlockState* block = nullptr;
  std::unique_ptr<Fiber> fiber;   // null for a copy engine
  std::vector<AsyncCopy> copies;  // cp.async, oldest first; delivered ones up to copies_done
  std::vector<int> groups;        // copies in each committed group
  size_t copies_done = 0;
  size_t groups_done = 0;
  int uncommitted = 0;
  std::vector<uint64_t> proxy_fences;  // fence_async_proxy, as stamps with no thread in them
  std::vector<AsyncMma> mmas;          // wgmma, oldest first
  std::vector<int> mma_groups;         // wgmma in each committed group
  int uncommitted_mmas = 0;
  ThreadFences fences;

  void ForgetCopies() {
    copies.clear();
    groups.clear();
    copies_done = groups_done = 0;
  }
  int lane() const { return static_cast<int>(id % kWarpLanes); }
};

// What all threads of the running block share. Times are stamps with no thread in them.
struct BlockState {
  std::string name;  // of the kernel, or what a copy is
  uint3 index{};
  dim3 grid, block;
  uint64_t shared_bytes = 0;
  uintptr_t device_base = 0;
  uint64_t* time = nullptr;       // the device's clock
  uint64_t launch_start = 0;      // stamps from here on: this launch
  uint64_t start = 0;             // stamps from here on: this block
  uint64_t barrier = 0;           // stamps before: ordered for every thread of the block
  uint64_t ordered_until = 0;     // stamps before: operations ordered before this launch
  bool early = false;             // the kernel may start before those ahead have ended;
  uint64_t early_until = 0;       // then the same before its start
  bool lets_next_start = false;   // some thread did,
  bool lets_before_wait = false;  // or even before it waited
  const History* history = nullptr;
  BlockOrder* order = nullptr;           // null for a copy engine
  const ThreadState* threads = nullptr;  // by id
  BlockFences fences;
  const char* parameters = nullptr;  // of the kernel
  size_t parameter_bytes = 0;
  bool shadow = true;
  bool uninitialised = false;
  bool aborted = false;
  cudaError_t error = cudaSuccess;  // that ends the launch

  uint64_t Tick() { return ++*time << 16; }
};

// The emulated thread that runs, null on the host.
extern constinit thread_local ThreadState* current_thread;
// The same while the kernel's own code runs, null inside the emulator: the linker may give the
// emulator an instrumented copy of a library's inline function, which must not be checked.
extern constinit thread_local ThreadState* kernel_thread;

// Every call from a kernel into the emulator opens with one.
class InEmulator {
 public:
  InEmulator() : saved_(kernel_thread) { kernel_thread = nullptr; }
  ~InEmulator() { kernel_thread = saved_; }
  InEmulator(const InEmulator&) = delete;
  InEmulator& operator=(const InEmulator&) = delete;

 private:
  ThreadState* saved_;
};

// Waits until all 32 lanes of the warp are in the same collective; the last calls `combine` once
// with every lane's argument.
void JoinWarp(Collective kind, const void* site, void* argument,
              void (*combine)(void* const* arguments));
// Waits for every thread of the block.
void JoinBlock(const void* site);
// Reports the violation and ends the launch, from inside a thread of it.
[[noreturn]] void EndLaunch(Violation kind, const std::string& message);

// cp.async: delivers this thread's copies until at most `groups` committed groups are left.
void DeliverCopies(ThreadState& thread, size_t groups);

class BlockRunner {
 public:
  // Runs `body` in every thread of the block that `block` describes; false when it was aborted.
  bool Run(BlockState& block, const std::function<void()>& body, const Options& options,
           std::mt19937_64& random);

 private:
  void Prepare(BlockState& block);
  bool RunWarp(int warp);  // until no lane of it can go on; false where none could
  void Resume(ThreadState& thread);
  void ReleaseBarrier();
  void Settle();  // all warps are stuck: release the barrier, end, or report a divergence
  void CheckBarrierSites();
  std::string DescribeWaits() const;

  std::vector<ThreadState> threads_;
  std::vector<WarpState> warps_;
  std::vector<int> lane_order_, warp_order_;
  BlockState* block_ = nullptr;
  const std::function<void()>* body_ = nullptr;
  const Options* options_ = nullptr;
  std::mt19937_64* random_ = nullptr;
  int num_threads_ = 0;
  int exited_ = 0;
};

}  // namespace emu
