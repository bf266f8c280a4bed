// The common case of CheckAccess, inlined: an access in bounds to words whose earlier accesses a
// barrier or an earlier operation has ordered. Everything else goes the long way.
#pragma once

#include <cstddef>
#include <cstdint>

#include "tests/emulator/block.h"
#include "tests/emulator/region.h"
#include "tests/emulator/shadow.h"

namespace emu {

inline Cell* WordCell(uintptr_t address) {
  return reinterpret_cast<Cell*>(kCellBase + ((address & ~uintptr_t{3}) - kRegionBase) * 4);
}

inline bool IsShared(const BlockState& block, uintptr_t address) {
  return address - block.device_base < kSharedSpan;
}

// True where what left `stamp` is certainly ordered before the running thread.
inline bool SurelyOrdered(const BlockState& block, uint64_t stamp, uint64_t floor) {
  return stamp < floor || (stamp >= block.start && stamp < block.barrier);
}

// One word; false where it takes the long way.
template <Access kAccess>
bool TouchQuickly(const ThreadState& thread, Cell& cell, uint64_t floor) {
  const BlockState& block = *thread.block;
  const uint64_t writer = cell.writer, reader = cell.reader;
  if (writer != thread.stamp || kAccess == Access::kReadByWarp) {
    constexpr uint64_t kSpecial = kAsync | kSplit | kAtomic;
    if ((writer & kSpecial) || !SurelyOrdered(block, writer, floor)) return false;
  }
  const bool past = !(reader & kManyBlocks) && SurelyOrdered(block, reader, floor);
  if (kAccess == Access::kWrite || kAccess == Access::kAsyncIssue) {
    if (!past && reader != thread.stamp) return false;
    cell.writer = kAccess == Access::kWrite ? thread.stamp : thread.stamp | kAsync;
    return true;
  }
  if (kAccess == Access::kReadOnly && writer >= block.launch_start) return false;
  const uint64_t now = thread.stamp & ~kWhoMask;
  const uint64_t me = kAccess == Access::kReadByWarp
                          ? now | kLanesOf | static_cast<uint64_t>(thread.warp->index)
                          : thread.stamp;
  if (past) {
    cell.reader = me;
    return true;
  }
  const bool all_blocks = (reader & kManyBlocks) && reader >= block.launch_start;
  return reader == me || reader == (now | kManyThreads) || all_blocks;
}

// How many of the bytes need no further check; 0 where not even their place is known to be good.
template <size_t kBytes, Access kAccess>
size_t CheckQuickly(const ThreadState& thread, uintptr_t address) {
  const BlockState& block = *thread.block;
  if (address - block.device_base >= kDeviceSpan) {
    return thread.fiber->OnStack(address) ? kBytes : 0;
  }
  if ((address & (kBytes - 1)) != 0 || !Addressable(address, kBytes)) return 0;
  if (!block.shadow) return kBytes;
  if (kBytes < 4 || block.uninitialised) return 0;
  const uint64_t floor = IsShared(block, address) ? block.start : thread.ordered_until;
  Cell* cells = WordCell(address);
  for (size_t w = 0; w < kBytes / 4; ++w) {
    if (!TouchQuickly<kAccess>(thread, cells[w], floor)) return w * 4;
  }
  return kBytes;
}

// The rest of what CheckQuickly began. A word is touched once: the second touch of a cp.async would
// be a hazard.
template <size_t kBytes, Access kAccess>
void FinishCheck(ThreadState& thread, uintptr_t address, size_t done) {
  if (done == kBytes) return;
  CheckAccess(thread, address + done, kBytes - done, done == 0 ? kBytes : 4, kAccess);
}

// CheckAccess of kBytes bytes at an address that must be aligned for them.
template <size_t kBytes, Access kAccess>
void CheckFast(ThreadState& thread, uintptr_t address) {
  FinishCheck<kBytes, kAccess>(thread, address, CheckQuickly<kBytes, kAccess>(thread, address));
}

}  // namespace emu
