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

template <size_t kBytes, Access kAccess>
bool CheckQuickly(const ThreadState& thread, uintptr_t address) {
  static_assert(kAccess == Access::kRead || kAccess == Access::kWrite);
  const BlockState& block = *thread.block;
  if (address - block.device_base >= kDeviceSpan) return thread.fiber->OnStack(address);
  if ((address & (kBytes - 1)) != 0 || !Addressable(address, kBytes)) return false;
  if (!block.shadow) return true;
  if (kBytes < 4 || block.uninitialised) return false;
  const uint64_t floor = IsShared(block, address) ? block.start : block.ordered_until;
  const uint64_t together = (thread.stamp & ~kWhoMask) | kManyThreads;
  Cell* cells = WordCell(address);
  for (size_t w = 0; w < kBytes / 4; ++w) {
    Cell& cell = cells[w];
    if (cell.writer != thread.stamp) {
      constexpr uint64_t kSpecial = kAsync | kSplit | kAtomic;
      if ((cell.writer & kSpecial) || !SurelyOrdered(block, cell.writer, floor)) return false;
    }
    const bool mine = cell.reader == thread.stamp;
    const bool past = !(cell.reader & kManyBlocks) && SurelyOrdered(block, cell.reader, floor);
    if (kAccess == Access::kRead) {
      if (past) {
        cell.reader = thread.stamp;
      } else if (!mine && cell.reader != together) {
        return false;
      }
    } else {
      if (!past && !mine) return false;
      cell.writer = thread.stamp;
    }
  }
  return true;
}

// CheckAccess of kBytes bytes at an address that must be aligned for them.
template <size_t kBytes, Access kAccess>
void CheckFast(ThreadState& thread, uintptr_t address) {
  if (!CheckQuickly<kBytes, kAccess>(thread, address)) {
    CheckAccess(thread, address, kBytes, kBytes, kAccess);
  }
}

}  // namespace emu
