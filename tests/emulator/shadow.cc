#include "tests/emulator/shadow.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <vector>

#include "tests/emulator/block.h"
#include "tests/emulator/host_memory.h"
#include "tests/emulator/region.h"
#include "tests/emulator/report.h"
#include "tests/emulator/shadow_inl.h"

namespace emu {
namespace {

const char* AccessName(Access access) {
  switch (access) {
    case Access::kRead:
    case Access::kReadOnly:
    case Access::kReadByWarp:
      return "reads";
    case Access::kWrite:
      return "writes";
    case Access::kAtomicAdd:
      return "atomically adds to";
    case Access::kAsyncIssue:
      return "starts a cp.async to";
  }
  return "";
}

std::string AddressName(const BlockState& block, uintptr_t address) {
  char text[64];
  if (IsShared(block, address)) {
    std::snprintf(text, sizeof(text), "shared memory + %llu",
                  static_cast<unsigned long long>(address - block.device_base));
  } else {
    std::snprintf(text, sizeof(text), "global address 0x%llx",
                  static_cast<unsigned long long>(address));
  }
  return text;
}

// "thread 5 of this block", or which operation it was.
std::string NameStamp(const BlockState& block, uint64_t stamp) {
  if (stamp < block.launch_start) return block.history->NameOf(stamp >> 16);
  if (stamp < block.start || (stamp & kManyBlocks)) return "another block of this launch";
  const uint64_t who = stamp & kWhoMask;
  if (who & kManyThreads) return "several threads of this block";
  if (who & kLanesOf) return "several lanes of warp " + std::to_string(who & 31);
  return "thread " + std::to_string(who) + " of this block";
}

int WarpOf(uint64_t who) {
  if (who & kManyThreads) return -1;
  return static_cast<int>(who & kLanesOf ? who & 31 : who / kWarpLanes);
}

bool IsRead(Access access) {
  return access == Access::kRead || access == Access::kReadOnly || access == Access::kReadByWarp;
}

// True where the access that left `stamp` is ordered before what `thread` does now.
//   floor  stamps before it are ordered in any case
bool Ordered(const ThreadState& thread, uint64_t stamp, uint64_t floor) {
  if (stamp < floor) return true;
  const BlockState& block = *thread.block;
  if (stamp < block.launch_start) return block.history->Ordered(stamp >> 16, thread.waited);
  if (stamp < block.start) return block.order->Ordered(thread, stamp);
  if (stamp & kManyBlocks) return false;
  if (stamp < block.barrier) return true;
  const uint64_t who = stamp & kWhoMask;
  if (who == thread.id) return true;
  return WarpOf(who) == thread.warp->index && stamp < thread.warp->stamp;
}

uint64_t JoinReaders(const ThreadState& thread, uint64_t old, uint64_t floor) {
  if (Ordered(thread, old, floor)) return thread.stamp;
  const uint64_t now = thread.stamp & ~kWhoMask;
  if (old < thread.block->start || (old & kManyBlocks)) return now | kManyThreads | kManyBlocks;
  const int warp = thread.warp->index;
  return now |
         (WarpOf(old & kWhoMask) == warp ? kLanesOf | static_cast<uint64_t>(warp) : kManyThreads);
}

void ReportRace(const ThreadState& thread, uintptr_t address, Access access, uint64_t other,
                const char* verb) {
  const BlockState& block = *thread.block;
  Violate(IsShared(block, address) ? Violation::kSharedRace : Violation::kGlobalRace,
          Where() + ": " + AccessName(access) + " " + AddressName(block, address) + ", which " +
              NameStamp(block, other) + " " + verb + " with nothing to order the two");
}

// The writes before this access: the last one, or all atomics where it is one of them.
bool CheckWriter(const ThreadState& thread, uintptr_t address, uint64_t floor, Access access,
                 uint64_t writer) {
  const BlockState& block = *thread.block;
  uint64_t racing = Ordered(thread, writer, floor) ? 0 : writer;
  if (racing == 0 && (writer & kAtomic) && writer >= block.launch_start &&
      !IsShared(block, address)) {
    racing = block.order->UnorderedAtomic(thread, address);
  }
  if (racing == 0) return true;
  ReportRace(thread, address, access, racing, "wrote");
  return false;
}

// A read of which every lane gets a part: writes of the warp's own lanes, too, need a sync_warp.
void ReadByWarp(const ThreadState& thread, Cell& cell, uintptr_t address, uint64_t floor) {
  const uint64_t writer = cell.writer;
  const int warp = thread.warp->index;
  const bool own = writer >= thread.warp->stamp && WarpOf(writer & kWhoMask) == warp;
  if (own || !Ordered(thread, writer, floor)) {
    ReportRace(thread, address, Access::kReadByWarp, writer, "wrote");
  }
  const uint64_t lanes = (thread.warp->stamp & ~kWhoMask) | kLanesOf | static_cast<uint64_t>(warp);
  if (cell.reader == lanes) return;
  const uint64_t joined = JoinReaders(thread, cell.reader, floor);
  cell.reader = joined == thread.stamp || (joined & kLanesOf) ? lanes : joined;
}

// One cell: a word, or a byte of a split word.
void Touch(ThreadState& thread, Cell& cell, uintptr_t address, uint64_t floor, Access access) {
  const uint64_t writer = cell.writer;
  if ((writer & kAsync) && writer >= floor) {
    EndLaunch(Violation::kAsyncCopy,
              Where() + ": " + AccessName(access) + " " + AddressName(*thread.block, address) +
                  ", where a cp.async of " + NameStamp(*thread.block, writer) +
                  " is under way (no cp_async_wait yet)");
  }
  if (access == Access::kReadByWarp) {
    ReadByWarp(thread, cell, address, floor);
    return;
  }
  if (access == Access::kReadOnly && writer >= thread.block->launch_start) {
    Violate(Violation::kGlobalRace, Where() + ": takes " + AddressName(*thread.block, address) +
                                        " for constant, which " + NameStamp(*thread.block, writer) +
                                        " wrote");
    return;
  }
  if (IsRead(access)) {
    if (cell.reader == thread.stamp || writer == thread.stamp) return;
    CheckWriter(thread, address, floor, access, writer);
    if (thread.block->uninitialised &&
        (writer == 0 || (IsShared(*thread.block, address) && writer < floor))) {
      Violate(Violation::kUninitialised,
              Where() + ": reads " + AddressName(*thread.block, address) + ", which nobody wrote");
    }
    cell.reader = JoinReaders(thread, cell.reader, floor);
    return;
  }
  const uint64_t stamp = thread.stamp | (access == Access::kAtomicAdd    ? kAtomic
                                         : access == Access::kAsyncIssue ? kAsync
                                                                         : 0);
  if (writer == stamp && access != Access::kAsyncIssue) return;
  const bool both_atomic = access == Access::kAtomicAdd && (writer & kAtomic);
  if (!both_atomic && !CheckWriter(thread, address, floor, access, writer)) {
    // One report is enough.
  } else if (!Ordered(thread, cell.reader, floor)) {
    ReportRace(thread, address, access, cell.reader, "read");
  }
  cell.writer = stamp;
}

Cell* ByteCell(uintptr_t address) {
  return reinterpret_cast<Cell*>(kByteCellBase + (address - kRegionBase) * 16);
}

// [address, address + bytes), inside one word.
void TouchWord(ThreadState& thread, uintptr_t address, size_t bytes, uint64_t floor,
               Access access) {
  Cell& word = *WordCell(address);
  if (bytes == 4 && !(word.writer & kSplit)) {
    Touch(thread, word, address, floor, access);
    return;
  }
  Cell* cells = ByteCell(address & ~uintptr_t{3});
  if (!(word.writer & kSplit)) {
    for (int i = 0; i < 4; ++i) cells[i] = word;
    word = {kSplit, 0};
  }
  for (size_t i = 0; i < bytes; ++i) {
    Touch(thread, cells[(address & 3) + i], address + i, floor, access);
  }
  if (bytes == 4 && !IsRead(access)) word = cells[0];  // the four agree again
}

[[noreturn]] void EndOutOfBounds(uintptr_t address, size_t bytes, Access access) {
  const BlockState& block = *current_thread->block;
  std::string message = Where() + ": " + AccessName(access) + " " + std::to_string(bytes) +
                        " bytes at " + AddressName(block, address);
  if (IsShared(block, address)) {
    message += ", past the block's " + std::to_string(block.shared_bytes) + " bytes";
    EndLaunch(Violation::kOutOfBounds, message);
  }
  const bool freed = block.history->WasFreed(address);
  message += ": " + block.history->DescribeAddress(address);
  EndLaunch(freed ? Violation::kUseAfterFree : Violation::kOutOfBounds, message);
}

// Not this device's memory: the thread's own stack, parameters and constants, or pinned memory.
void CheckOutside(const ThreadState& thread, uintptr_t address, size_t bytes, Access access) {
  if (thread.fiber == nullptr || thread.fiber->OnStack(address)) return;
  const BlockState& block = *thread.block;
  const bool read = IsRead(access);
  if (read && address - reinterpret_cast<uintptr_t>(block.parameters) < block.parameter_bytes) {
    return;
  }
  if (read && IsProgramData(address)) return;
  if (IsPinned(reinterpret_cast<const void*>(address))) return;
  char text[32];
  std::snprintf(text, sizeof(text), "0x%llx", static_cast<unsigned long long>(address));
  const char* owner = InRegion(address) ? ", memory of another device" : ", memory of the host";
  EndLaunch(InRegion(address) ? Violation::kOutOfBounds : Violation::kHostMemory,
            Where() + ": " + AccessName(access) + " " + std::to_string(bytes) + " bytes at " +
                text + owner);
}

// True where `thread` knows of a fence between the write that left `stamp` and now.
bool SeenByProxy(const ThreadState& thread, uint64_t stamp) {
  const BlockState& block = *thread.block;
  if (stamp < block.start) return true;
  if (stamp & kAsync) return false;
  const std::vector<uint64_t>& fences = block.threads[stamp & kWhoMask].proxy_fences;
  const auto first = std::ranges::upper_bound(fences, stamp);
  return first != fences.end() && Ordered(thread, *first | (stamp & kWhoMask), block.start);
}

}  // namespace

void CheckSeenByProxy(const ThreadState& thread, uintptr_t shared) {
  if (!thread.block->shadow) return;
  for (uintptr_t word = shared; word < shared + 16; word += 4) {
    const Cell* cell = WordCell(word);
    const bool split = cell->writer & kSplit;
    if (split) cell = ByteCell(word);
    for (int i = 0; i < (split ? 4 : 1); ++i) {
      if (SeenByProxy(thread, cell[i].writer)) continue;
      EndLaunch(Violation::kAsyncCopy, Where() + ": wgmma reads " +
                                           AddressName(*thread.block, word) + ", which " +
                                           NameStamp(*thread.block, cell[i].writer) +
                                           " wrote, and no fence_async_proxy has shown it");
    }
  }
}

void CheckAccess(ThreadState& thread, uintptr_t address, size_t bytes, size_t natural,
                 Access access) {
  const BlockState& block = *thread.block;
  if (address - block.device_base >= kDeviceSpan) {
    CheckOutside(thread, address, bytes, access);
    return;
  }
  if (address & (natural - 1)) {
    EndMisaligned(address, natural, std::string(AccessName(access)) + " memory");
  }
  for (size_t done = 0; done < bytes;) {
    const size_t in_page = kPageBytes - ((address + done) & (kPageBytes - 1));
    const size_t part = bytes - done < in_page ? bytes - done : in_page;
    if (!Addressable(address + done, part)) EndOutOfBounds(address, bytes, access);
    done += part;
  }
  if (!block.shadow) return;
  const uint64_t floor = IsShared(block, address) ? block.start : thread.ordered_until;
  for (size_t done = 0; done < bytes;) {
    const size_t in_word = 4 - ((address + done) & 3);
    const size_t part = bytes - done < in_word ? bytes - done : in_word;
    TouchWord(thread, address + done, part, floor, access);
    done += part;
  }
}

void EndMisaligned(uintptr_t address, size_t natural, const std::string& where) {
  EndLaunch(Violation::kMisaligned, Where() + ": " + where + " at " +
                                        AddressName(*current_thread->block, address) +
                                        ", which is not a multiple of " + std::to_string(natural));
}

void CheckShared(const void* address, const char* instruction) {
  if (IsShared(*current_thread->block, reinterpret_cast<uintptr_t>(address))) return;
  EndLaunch(Violation::kInvalidArgument,
            Where() + ": " + instruction + " of an address that is not in shared memory");
}

void CheckGlobal(const void* address, const char* instruction) {
  const BlockState& block = *current_thread->block;
  if (!IsShared(block, reinterpret_cast<uintptr_t>(address))) return;
  EndLaunch(Violation::kInvalidArgument,
            Where() + ": " + instruction + " of an address that is in shared memory");
}

bool StampOrdered(const ThreadState& thread, uint64_t stamp) {
  return Ordered(thread, stamp, thread.ordered_until);
}

void MarkDelivered(ThreadState& thread, uintptr_t shared) {
  if (!thread.block->shadow) return;
  for (int word = 0; word < 4; ++word) *WordCell(shared + 4 * word) = {thread.stamp, 0};
}

}  // namespace emu
