// Memory instructions of kernels/cuda/ptx.h, and the block barrier.
#include <cstdint>
#include <cstring>

#include "kernels/cuda/ptx.h"
#include "tests/emulator/block.h"
#include "tests/emulator/shadow.h"

namespace emu {

// As late as legal: nothing is copied before somebody waits for it.
void DeliverCopies(ThreadState& thread, size_t groups) {
  while (thread.groups.size() > groups) {
    for (int n = thread.groups.front(); n > 0; --n) {
      const AsyncCopy copy = thread.copies.front();
      thread.copies.pop_front();
      if (copy.valid) {
        CheckAccess(thread, reinterpret_cast<uintptr_t>(copy.global), 16, 16, Access::kRead);
        std::memcpy(copy.shared, copy.global, 16);
      } else {
        std::memset(copy.shared, 0, 16);
      }
      MarkDelivered(thread, reinterpret_cast<uintptr_t>(copy.shared));
    }
    thread.groups.pop_front();
  }
}

void WaitForCopies(int groups) { DeliverCopies(*current_thread, static_cast<size_t>(groups)); }

}  // namespace emu

namespace intermix::cuda {

using emu::current_thread;

void cp_async_16(void* shared, const void* global, bool valid) {
  emu::ThreadState& thread = *current_thread;
  emu::CheckShared(shared, "cp.async");
  emu::CheckAccess(thread, reinterpret_cast<uintptr_t>(shared), 16, 16, emu::Access::kAsyncIssue);
  if (valid) {
    emu::CheckAccess(thread, reinterpret_cast<uintptr_t>(global), 16, 16, emu::Access::kRead);
  }
  std::memset(shared, emu::kPoisonByte, 16);
  thread.copies.push_back({.shared = static_cast<char*>(shared),
                           .global = static_cast<const char*>(global),
                           .valid = valid});
  ++thread.uncommitted;
}

void cp_async_commit() {
  current_thread->groups.push_back(current_thread->uncommitted);
  current_thread->uncommitted = 0;
}

char* shared_memory() { return reinterpret_cast<char*>(current_thread->block->device_base); }

int32_t red_add_s32(int32_t* address, int32_t value) {
  emu::CheckAccess(*current_thread, reinterpret_cast<uintptr_t>(address), 4, 4,
                   emu::Access::kAtomicAdd);
  const int32_t old = *address;
  *address = static_cast<int32_t>(static_cast<uint32_t>(old) + static_cast<uint32_t>(value));
  return old;
}

void fence_device() {}

void sync_block() { emu::JoinBlock(__builtin_return_address(0)); }

}  // namespace intermix::cuda
