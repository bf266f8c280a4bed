// Fibers for the threads of a block: each runs the same body until it yields or ends, and is used
// again for the next block. Owned and driven by one OS thread.
#pragma once

#include <boost/context/fiber.hpp>
#include <functional>
#include <memory>

namespace emu {

class Fiber {
 public:
  Fiber();
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  // Runs `body` (set while the fiber is idle) until it yields or returns; true when it returned.
  bool Resume(const std::function<void()>* body);
  // Back to Resume's caller; only inside the fiber.
  void Yield();
  // Forgets a body that yielded and will not go on; its locals are never destroyed.
  void Abandon();
  // True for an address on this fiber's stack.
  bool OnStack(uintptr_t address) const { return address - stack_begin_ < stack_bytes_; }
  uintptr_t stack_begin() const { return stack_begin_; }

 private:
  void Start();

  boost::context::fiber worker_;     // the fiber while it is suspended
  boost::context::fiber scheduler_;  // who resumed it, while it runs
  const std::function<void()>* body_ = nullptr;
  uintptr_t stack_begin_ = 0;
  uint64_t stack_bytes_ = 0;
};

}  // namespace emu
