#include "tests/emulator/host_memory.h"

#include <link.h>

#include <algorithm>
#include <cstring>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <string_view>
#include <vector>

#include "tests/emulator/include/vector_types.h"
#include "tests/emulator/report.h"
#include "tests/emulator/shadow.h"

namespace emu {
namespace {

struct Pending {
  HostRows rows;
  bool writes;
};

struct HostState {
  std::mutex mutex;
  std::map<uintptr_t, size_t> pinned;
  std::list<Pending> pending;  // copies queued and not yet run
};

HostState& State() {
  static HostState* state = new HostState();
  return *state;
}

struct Segment {
  uintptr_t begin;
  uintptr_t bytes;
};

int AddSegments(dl_phdr_info* info, size_t, void* data) {
  for (int i = 0; i < info->dlpi_phnum; ++i) {
    const ElfW(Phdr)& header = info->dlpi_phdr[i];
    if (header.p_type != PT_LOAD) continue;
    static_cast<std::vector<Segment>*>(data)->push_back(
        {info->dlpi_addr + header.p_vaddr, header.p_memsz});
  }
  return 0;
}

bool Inside(uintptr_t address, const uint3& variable) {
  return address - reinterpret_cast<uintptr_t>(&variable) < sizeof(variable);
}

uintptr_t BeginOf(const HostRows& rows) { return reinterpret_cast<uintptr_t>(rows.begin); }
uintptr_t EndOf(const HostRows& rows) {
  return BeginOf(rows) + rows.pitch * (rows.height - 1) + rows.width;
}

bool Overlap(const HostRows& a, const HostRows& b) {
  return BeginOf(a) < EndOf(b) && BeginOf(b) < EndOf(a);
}

size_t HashRows(const HostRows& rows) {
  size_t hash = 0;
  for (size_t r = 0; r < rows.height; ++r) {
    const std::string_view row(rows.begin + r * rows.pitch, rows.width);
    hash = hash * 31 + std::hash<std::string_view>()(row);
  }
  return hash;
}

}  // namespace

bool AddPinned(const void* begin, size_t bytes) {
  const std::lock_guard lock(State().mutex);
  return State().pinned.emplace(reinterpret_cast<uintptr_t>(begin), bytes).second;
}

size_t RemovePinned(const void* begin) {
  const std::lock_guard lock(State().mutex);
  const auto found = State().pinned.find(reinterpret_cast<uintptr_t>(begin));
  if (found == State().pinned.end()) return 0;
  const size_t bytes = found->second;
  State().pinned.erase(found);
  return bytes;
}

bool IsPinned(const void* pointer) {
  const uintptr_t address = reinterpret_cast<uintptr_t>(pointer);
  const std::lock_guard lock(State().mutex);
  auto after = State().pinned.upper_bound(address);
  if (after == State().pinned.begin()) return false;
  --after;
  return address - after->first < after->second;
}

bool IsProgramData(uintptr_t address) {
  if (Inside(address, threadIdx) || Inside(address, blockIdx) || Inside(address, blockDim) ||
      Inside(address, gridDim)) {
    return true;
  }
  static const std::vector<Segment> segments = [] {
    std::vector<Segment> found;
    dl_iterate_phdr(AddSegments, &found);
    return found;
  }();
  return std::any_of(segments.begin(), segments.end(), [address](const Segment& segment) {
    return address - segment.begin < segment.bytes;
  });
}

std::function<void()> WatchSource(const std::string& what, const HostRows& rows) {
  HostState& state = State();
  const std::lock_guard lock(state.mutex);
  // A queued copy will write there first, in the order of some stream: nothing to compare with.
  const bool fixed =
      std::none_of(state.pending.begin(), state.pending.end(),
                   [&](const Pending& p) { return p.writes && Overlap(p.rows, rows); });
  const auto entry = state.pending.insert(state.pending.end(), {.rows = rows, .writes = false});
  const size_t hash = fixed ? HashRows(rows) : 0;
  return [what, rows, entry, fixed, hash] {
    {
      const std::lock_guard inner(State().mutex);
      State().pending.erase(entry);
    }
    if (!fixed || HashRows(rows) == hash) return;
    Violate(Violation::kHostRace, what + ": the host memory that it reads changed after the call");
  };
}

std::function<void()> PoisonDestination(const std::string& what, const HostRows& rows) {
  HostState& state = State();
  const std::lock_guard lock(state.mutex);
  // A queued copy still reads or writes there: leave the memory to it.
  const bool free = std::none_of(state.pending.begin(), state.pending.end(),
                                 [&](const Pending& p) { return Overlap(p.rows, rows); });
  const auto entry = state.pending.insert(state.pending.end(), {.rows = rows, .writes = true});
  if (free) {
    for (size_t r = 0; r < rows.height; ++r) {
      std::memset(rows.begin + r * rows.pitch, kPoisonByte, rows.width);
    }
  }
  const size_t hash = free ? HashRows(rows) : 0;
  return [what, rows, entry, free, hash] {
    {
      const std::lock_guard inner(State().mutex);
      State().pending.erase(entry);
    }
    if (!free || HashRows(rows) == hash) return;
    Violate(Violation::kHostRace, what + ": the host memory that it writes changed after the call");
  };
}

}  // namespace emu
