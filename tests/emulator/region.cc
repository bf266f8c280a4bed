#include "tests/emulator/region.h"

#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>

namespace emu {
namespace {

[[noreturn]] void FailMapping(const char* what) {
  std::perror(what);
  std::fprintf(stderr, "emulator: cannot reserve its address range; is `ulimit -v` set?\n");
  std::abort();
}

void Reserve(uintptr_t address, uint64_t bytes, int protection) {
  void* at = reinterpret_cast<void*>(address);
  void* got = mmap(at, bytes, protection,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
  if (got != at) FailMapping("mmap");
  madvise(at, bytes, MADV_DONTDUMP);
}

uint64_t RoundToPages(uint64_t bytes) { return (bytes + kPageBytes - 1) & ~(kPageBytes - 1); }

void Drop(uintptr_t address, uint64_t bytes) {
  if (madvise(reinterpret_cast<void*>(address), bytes, MADV_DONTNEED) != 0) FailMapping("madvise");
}

}  // namespace

void ReserveDevice(int device) {
  const uint64_t offset = kDeviceSpan * device;
  Reserve(kRegionBase + offset, kDeviceSpan, PROT_NONE);
  Reserve(kValidBase + offset / kPageBytes * sizeof(uint16_t),
          kDeviceSpan / kPageBytes * sizeof(uint16_t), PROT_READ | PROT_WRITE);
  Reserve(kCellBase + offset * 4, kDeviceSpan * 4, PROT_READ | PROT_WRITE);
  Reserve(kByteCellBase + offset * 16, kDeviceSpan * 16, PROT_READ | PROT_WRITE);
}

void SetValid(uintptr_t begin, uint64_t bytes) {
  for (uint64_t done = 0; done < bytes; done += kPageBytes) {
    ValidBytes(begin + done) =
        static_cast<uint16_t>(bytes - done < kPageBytes ? bytes - done : kPageBytes);
  }
}

void ClearValid(uintptr_t begin, uint64_t bytes) {
  for (uint64_t done = 0; done < bytes; done += kPageBytes) ValidBytes(begin + done) = 0;
}

void DropPages(uintptr_t begin, uint64_t bytes) {
  const uint64_t whole = RoundToPages(bytes);
  const uint64_t offset = begin - kRegionBase;
  Drop(begin, whole);
  Drop(kCellBase + offset * 4, whole * 4);
  Drop(kByteCellBase + offset * 16, whole * 16);
}

void ProtectDevice(int device, uint64_t bytes, bool open) {
  if (mprotect(reinterpret_cast<void*>(DeviceBase(device)), RoundToPages(bytes),
               open ? PROT_READ | PROT_WRITE : PROT_NONE) != 0) {
    FailMapping("mprotect");
  }
}

}  // namespace emu
