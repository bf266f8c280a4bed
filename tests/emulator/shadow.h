// Shadow memory: who touched each word last, and whether that happened before the access at hand.
//
// Time is a counter of the process that ticks at every launch, block, block barrier and warp
// barrier, so a stamp (time, thread) tells all: an earlier access of another thread is ordered
// before the one at hand when a barrier of both lies between them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace emu {

struct ThreadState;

// Stamp: time << 16 | flags | who.
inline constexpr uint64_t kWhoMask = 0x0FFF;  // thread 0..1023, or one of the groups below
inline constexpr uint64_t kLanesOf = 0x0400;  // | warp: several threads of one warp
inline constexpr uint64_t kManyThreads = 0x0800;
inline constexpr uint64_t kAtomic = 0x1000;
inline constexpr uint64_t kAsync = 0x2000;       // a cp.async that has not been waited for
inline constexpr uint64_t kSplit = 0x4000;       // the four bytes differ: see the byte cells
inline constexpr uint64_t kManyBlocks = 0x8000;  // readers in several blocks of one launch

// What memory holds before anybody writes it: NaN as float and bf16, -1 as an integer.
inline constexpr int kPoisonByte = 0xFF;

struct Cell {
  uint64_t writer;  // stamp of the last write, 0 where nobody wrote
  uint64_t reader;  // stamp of the reads since then that no barrier has ordered
};

enum class Access {
  kRead,
  kReadOnly,    // a load that takes the memory for constant during the launch (ld.global.nc)
  kReadByWarp,  // on behalf of all lanes of the warp (ldmatrix)
  kWrite,
  kAtomicAdd,
  kAsyncIssue,
};

// Checks one access of the running thread and records it. Ends the thread where it must not happen.
//   natural  the alignment that the access needs
void CheckAccess(ThreadState& thread, uintptr_t address, size_t bytes, size_t natural,
                 Access access);

// Ends the launch: `address` is not the multiple of `natural` that the source line's type promises.
[[noreturn]] void EndMisaligned(uintptr_t address, size_t natural, const std::string& where);

// A cp.async of `thread` to these 16 bytes has arrived: from now on an ordinary write of it.
void MarkDelivered(ThreadState& thread, uintptr_t shared);

// Ends the launch where the running thread's wgmma may not see what 16 bytes of shared memory hold:
// the writer, or who waited for the copy, must have called fence_async_proxy before a barrier.
void CheckSeenByProxy(const ThreadState& thread, uintptr_t shared);

// End the launch where `address` is not in the block's shared memory, or is in it.
void CheckShared(const void* address, const char* instruction);
void CheckGlobal(const void* address, const char* instruction);

// True where the global-memory access that left `stamp` is ordered before what `thread` does now.
bool StampOrdered(const ThreadState& thread, uint64_t stamp);

}  // namespace emu
