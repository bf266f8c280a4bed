#include "tests/emulator/fiber.h"

#include <sys/mman.h>

#include <boost/context/preallocated.hpp>
#include <cstdio>
#include <cstdlib>
#include <utility>

namespace emu {
namespace {

constexpr uint64_t kStackBytes = 128 * 1024;
constexpr uint64_t kGuardBytes = 4096;

// The stack is the Fiber's own; a boost fiber that ends has nothing to free.
struct BorrowedStack {
  boost::context::stack_context allocate() { return {}; }
  void deallocate(boost::context::stack_context&) {}
};

}  // namespace

Fiber::Fiber() : stack_bytes_(kStackBytes) {
  void* memory = mmap(nullptr, kGuardBytes + kStackBytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED || mprotect(memory, kGuardBytes, PROT_NONE) != 0) {
    std::perror("emulator: stack of an emulated thread");
    std::abort();
  }
  stack_begin_ = reinterpret_cast<uintptr_t>(memory) + kGuardBytes;
  Start();
}

Fiber::~Fiber() {
  if (body_ != nullptr) Abandon();
  worker_ = boost::context::fiber();  // unwinds the idle loop
  munmap(reinterpret_cast<void*>(stack_begin_ - kGuardBytes), kGuardBytes + kStackBytes);
}

void Fiber::Start() {
  boost::context::stack_context stack;
  stack.size = kStackBytes;
  stack.sp = reinterpret_cast<void*>(stack_begin_ + kStackBytes);
  const boost::context::preallocated where(stack.sp, stack.size, stack);
  worker_ = boost::context::fiber(std::allocator_arg, where, BorrowedStack{},
                                  [this](boost::context::fiber&& scheduler) {
                                    scheduler_ = std::move(scheduler);
                                    for (;;) {
                                      (*body_)();
                                      body_ = nullptr;
                                      Yield();
                                    }
                                    return std::move(scheduler_);
                                  });
}

bool Fiber::Resume(const std::function<void()>* body) {
  body_ = body;
  worker_ = std::move(worker_).resume();
  return body_ == nullptr;
}

void Fiber::Yield() { scheduler_ = std::move(scheduler_).resume(); }

void Fiber::Abandon() {
  // Destroying a suspended boost fiber would unwind the kernel's frames; it is leaked instead, and
  // the stack is written over.
  new boost::context::fiber(std::move(worker_));
  body_ = nullptr;
  Start();
}

}  // namespace emu
