// Memory instructions of kernels/cuda/ptx.h, and the block barrier.
#include <cstdint>
#include <cstring>

#include "kernels/cuda/ptx.h"
#include "tests/emulator/block.h"
#include "tests/emulator/shadow.h"
#include "tests/emulator/shadow_inl.h"

namespace emu {

// As late as legal: nothing is copied before somebody waits for it.
void DeliverCopies(ThreadState& thread, size_t groups) {
  while (thread.groups.size() - thread.groups_done > groups) {
    for (int n = thread.groups[thread.groups_done++]; n > 0; --n) {
      const AsyncCopy copy = thread.copies[thread.copies_done++];
      if (copy.valid) {
        CheckFast<16, Access::kRead>(thread, reinterpret_cast<uintptr_t>(copy.global));
        std::memcpy(copy.shared, copy.global, 16);
      } else {
        std::memset(copy.shared, 0, 16);
      }
      MarkDelivered(thread, reinterpret_cast<uintptr_t>(copy.shared));
    }
  }
  if (thread.groups_done == thread.groups.size() && thread.copies_done == thread.copies.size()) {
    thread.ForgetCopies();
  }
}

void WaitForCopies(int groups) {
  const InEmulator inside;
  DeliverCopies(*current_thread, static_cast<size_t>(groups));
}

}  // namespace emu

namespace intermix::cuda {

using emu::current_thread;

void cp_async_16(void* shared, const void* global, bool valid) {
  const emu::InEmulator inside;
  emu::ThreadState& thread = *current_thread;
  emu::CheckShared(shared, "cp.async");
  emu::CheckFast<16, emu::Access::kAsyncIssue>(thread, reinterpret_cast<uintptr_t>(shared));
  if (valid) {
    emu::CheckGlobal(global, "cp.async");
    emu::CheckFast<16, emu::Access::kRead>(thread, reinterpret_cast<uintptr_t>(global));
  }
  std::memset(shared, emu::kPoisonByte, 16);
  thread.copies.push_back({.shared = static_cast<char*>(shared),
                           .global = static_cast<const char*>(global),
                           .valid = valid});
  ++thread.uncommitted;
}

void cp_async_16_once(void* shared, const void* global, bool valid) {
  cp_async_16(shared, global, valid);
}

void cp_async_commit() {
  const emu::InEmulator inside;
  current_thread->groups.push_back(current_thread->uncommitted);
  current_thread->uncommitted = 0;
}

char* shared_memory() { return reinterpret_cast<char*>(current_thread->block->device_base); }

int32_t atom_add_s32(int32_t* address, int32_t value) {
  const emu::InEmulator inside;
  emu::ThreadState& thread = *current_thread;
  emu::BlockOrder& order = *thread.block->order;
  const uintptr_t at = reinterpret_cast<uintptr_t>(address);
  emu::CheckGlobal(address, "an atomic");
  order.StartAtomic(thread);
  emu::CheckAccess(thread, at, 4, 4, emu::Access::kAtomicAdd);
  if (thread.block->shadow) order.FinishAtomic(thread, at);
  const int32_t old = *address;
  *address = static_cast<int32_t>(static_cast<uint32_t>(old) + static_cast<uint32_t>(value));
  return old;
}

void red_add_s32(int32_t* address, int32_t value) { atom_add_s32(address, value); }

void fence_device() {
  const emu::InEmulator inside;
  current_thread->block->order->Fence(*current_thread);
}

uint4 ld_stream(const void* global) {
  const emu::InEmulator inside;
  emu::CheckGlobal(global, "ld.global");
  emu::CheckFast<16, emu::Access::kReadOnly>(*current_thread, reinterpret_cast<uintptr_t>(global));
  return *static_cast<const uint4*>(global);
}

int32_t ld_l2_s32(const int32_t* global) {
  const emu::InEmulator inside;
  emu::CheckGlobal(global, "ld.global");
  emu::CheckFast<4, emu::Access::kRead>(*current_thread, reinterpret_cast<uintptr_t>(global));
  return *global;
}

void wait_for_kernels_ahead() {
  const emu::InEmulator inside;
  current_thread->waited = true;
  current_thread->ordered_until = current_thread->block->ordered_until;
}

void let_next_kernel_start() {
  const emu::InEmulator inside;
  current_thread->block->lets_next_start = true;
  current_thread->block->lets_before_wait |= !current_thread->waited;
}

void sync_block() {
  const emu::InEmulator inside;
  emu::JoinBlock(__builtin_return_address(0));
}

void sync_roles() {
  const emu::InEmulator inside;
  emu::JoinBlock(reinterpret_cast<const void*>(&sync_roles));  // wherever it was called
}

}  // namespace intermix::cuda
