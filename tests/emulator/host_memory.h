// Pinned host memory and what asynchronous copies do to it. Any thread may call.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>

namespace emu {

// False where the range is known already.
bool AddPinned(const void* begin, size_t bytes);
// The bytes of the range that begins there, 0 where none does.
size_t RemovePinned(const void* begin);
bool IsPinned(const void* address);
// Constants of this program, and what stands for registers: threadIdx and the like.
bool IsProgramData(uintptr_t address);

// Rows of `width` bytes, `pitch` bytes from each to the next.
struct HostRows {
  char* begin;
  size_t width;
  size_t pitch;
  size_t height;
};

// An asynchronous copy that reads host memory when it runs: `check` tells then whether the memory
// still is what it was when the copy was queued.
std::function<void()> WatchSource(const std::string& what, const HostRows& rows);
// One that writes host memory when it runs: what the host reads before is poison; call the result
// just before writing.
std::function<void()> PoisonDestination(const std::string& what, const HostRows& rows);

}  // namespace emu
