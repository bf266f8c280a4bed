// The functional CUDA emulator: what a test may set and ask. Kernels of kernels/cuda run as plain
// C++, one fiber per CUDA thread, behind a fake CUDA runtime (include/cuda_runtime.h).
//
// Options and reports are the process's; set them while no kernel runs. INTERMIX_EMULATOR sets the
// options of a whole program: "seed=3,order=seeded,shadow=off,devices=4,memory=268435456".
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace emu {

enum class Order {
  kForward,   // warps and lanes ascending, blocks ascending; streams run as late as they may
  kReversed,  // descending; streams as late as they may
  kSeeded,    // drawn from Options::seed, anew at every turn, also for streams
};

struct Options {
  uint64_t seed = 1;
  Order order = Order::kForward;
  bool shadow = true;          // report races; bounds and alignment are always checked
  bool uninitialised = false;  // report reads of memory that nobody wrote, too
  bool protect = true;         // host access to device memory faults
  int devices = 1;
  uint64_t device_memory_bytes = uint64_t{1} << 30;
};

// Reads "seed=3,order=seeded" over `options`; empty, or what it cannot read.
std::string ParseOptions(const std::string& text, Options& options);

// The options in force, from INTERMIX_EMULATOR where nothing was set.
const Options& GetOptions();
void SetOptions(const Options& options);

enum class Violation {
  kSharedRace,       // shared memory, two threads, no barrier between them
  kGlobalRace,       // global memory: within a block, between blocks, or between unordered streams
  kOutOfBounds,      // outside of any allocation, or past the end of the block's shared memory
  kUseAfterFree,     // device memory that was freed
  kMisaligned,       // a wide access at an address that it does not divide
  kHostMemory,       // a kernel touched memory of the host
  kDivergence,       // a barrier or warp collective that not all of its threads reached
  kAsyncCopy,        // shared memory read or written while a cp.async to it is under way
  kNeverWaited,      // a kernel that starts early and does not wait for those ahead
  kUninitialised,    // a read of what nobody wrote
  kHostRace,         // host memory of an asynchronous copy changed before the copy ran
  kHostAccess,       // the host touched device memory
  kInvalidArgument,  // an instruction or API call was given what it does not take
};
const char* ViolationName(Violation kind);

struct Finding {
  Violation kind;
  std::string message;  // names kernel, block, thread and address
};

// While one lives, violations are collected in it and not fatal: a race lets the kernel go on, any
// other violation ends the launch and leaves the device's error sticky (cudaDeviceReset clears it).
class Report {
 public:
  Report();
  ~Report();
  Report(const Report&) = delete;
  Report& operator=(const Report&) = delete;

  bool Has(Violation kind) const;
  const std::vector<Finding>& findings() const { return findings_; }
  std::string ToString() const;
  void Clear() { findings_.clear(); }
  void Add(Violation kind, const std::string& message);

 private:
  std::vector<Finding> findings_;
};

}  // namespace emu
