#include "tests/emulator/shadow.h"

#include <cstdio>
#include <cstring>

#include "tests/emulator/block.h"
#include "tests/emulator/region.h"
#include "tests/emulator/report.h"

namespace emu {
namespace {

const char* AccessName(Access access) {
  switch (access) {
    case Access::kRead:
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

bool IsShared(const BlockState& block, uintptr_t address) {
  return address - block.device_base < kSharedSpan;
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

[[noreturn]] void End(Violation kind, const std::string& message) {
  Violate(kind, message);
  AbortLaunch();
}

int WarpOf(uint64_t who) {
  if (who & kManyThreads) return -1;
  return static_cast<int>(who & kLanesOf ? who & 31 : who / kWarpLanes);
}

// True where the access that left `stamp` is ordered before what `thread` does now.
//   floor  stamps before it are ordered in any case
bool Ordered(const ThreadState& thread, uint64_t stamp, uint64_t floor) {
  if (stamp < floor) return true;
  const BlockState& block = *thread.block;
  if (stamp < block.launch_start) return block.history->Ordered(stamp >> 16);
  if (stamp < block.start || (stamp & kManyBlocks)) return false;
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

// One cell: a word, or a byte of a split word.
void Touch(ThreadState& thread, Cell& cell, uintptr_t address, uint64_t floor, Access access) {
  const uint64_t writer = cell.writer;
  if ((writer & kAsync) && writer >= floor) {
    End(Violation::kAsyncCopy, Where() + ": " + AccessName(access) + " " +
                                   AddressName(*thread.block, address) + ", where a cp.async of " +
                                   NameStamp(*thread.block, writer) +
                                   " is under way (no cp_async_wait yet)");
  }
  if (access == Access::kRead) {
    if (cell.reader == thread.stamp || writer == thread.stamp) return;
    if (!Ordered(thread, writer, floor)) ReportRace(thread, address, access, writer, "wrote");
    if (thread.block->uninitialised &&
        (writer == 0 || (floor == thread.block->start && writer < floor))) {
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
  if (!both_atomic && !Ordered(thread, writer, floor)) {
    ReportRace(thread, address, access, writer, "wrote");
  } else if (!Ordered(thread, cell.reader, floor)) {
    ReportRace(thread, address, access, cell.reader, "read");
  }
  cell.writer = stamp;
}

Cell* WordCell(uintptr_t address) {
  return reinterpret_cast<Cell*>(kCellBase + ((address & ~uintptr_t{3}) - kRegionBase) * 4);
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
    word.writer = kSplit;
  }
  for (size_t i = 0; i < bytes; ++i) {
    Touch(thread, cells[(address & 3) + i], address + i, floor, access);
  }
  if (bytes == 4 && access != Access::kRead) word = cells[0];  // the four agree again
}

[[noreturn]] void EndOutOfBounds(uintptr_t address, size_t bytes, Access access) {
  const BlockState& block = *current_thread->block;
  std::string message = Where() + ": " + AccessName(access) + " " + std::to_string(bytes) +
                        " bytes at " + AddressName(block, address);
  if (IsShared(block, address)) {
    message += ", past the block's " + std::to_string(block.shared_bytes) + " bytes";
    End(Violation::kOutOfBounds, message);
  }
  const bool freed = block.history->WasFreed(address);
  message += freed ? ", in memory that was freed" : ", outside of every allocation";
  End(freed ? Violation::kUseAfterFree : Violation::kOutOfBounds, message);
}

}  // namespace

void CheckAccess(ThreadState& thread, uintptr_t address, size_t bytes, size_t natural,
                 Access access) {
  const BlockState& block = *thread.block;
  if (address - block.device_base >= kDeviceSpan) return;
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
  const uint64_t floor = IsShared(block, address) ? block.start : block.ordered_until;
  for (size_t done = 0; done < bytes;) {
    const size_t in_word = 4 - ((address + done) & 3);
    const size_t part = bytes - done < in_word ? bytes - done : in_word;
    TouchWord(thread, address + done, part, floor, access);
    done += part;
  }
}

void EndMisaligned(uintptr_t address, size_t natural, const std::string& where) {
  End(Violation::kMisaligned, Where() + ": " + where + " at " +
                                  AddressName(*current_thread->block, address) +
                                  ", which is not a multiple of " + std::to_string(natural));
}

void CheckShared(const void* address, const char* instruction) {
  if (IsShared(*current_thread->block, reinterpret_cast<uintptr_t>(address))) return;
  End(Violation::kInvalidArgument,
      Where() + ": " + instruction + " of an address that is not in shared memory");
}

void MarkDelivered(ThreadState& thread, uintptr_t shared) {
  if (!thread.block->shadow) return;
  for (int word = 0; word < 4; ++word) *WordCell(shared + 4 * word) = {thread.stamp, 0};
}

void ClearCells(uintptr_t begin, uint64_t bytes) {
  std::memset(static_cast<void*>(WordCell(begin)), 0, (bytes + 3) / 4 * sizeof(Cell));
}

}  // namespace emu
