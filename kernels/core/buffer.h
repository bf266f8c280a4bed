// Buffer: the owner of one allocation, freed by the deleter of the device it came from.
// Workspace: the scratch memory of one forward step; a bump allocator that is reset every step.
// Not thread-safe; one rank's engine thread owns each.
#pragma once

#include <cstddef>
#include <functional>
#include <initializer_list>
#include <memory>
#include <vector>

#include "kernels/core/tensor.h"

namespace intermix {

class Buffer {
 public:
  Buffer() = default;
  Buffer(void* data, size_t bytes, Device device, std::function<void(void*)> deleter)
      : data_(data, std::move(deleter)), bytes_(bytes), device_(device) {}

  // Host memory, zeroed, aligned to 64 bytes (to 2 MiB with huge pages asked for when it is large).
  static Buffer Host(size_t bytes);
  // Likewise, but where it is large nobody has touched it: its pages come to be, near the thread
  // that does so, when they are first written.
  static Buffer HostUntouched(size_t bytes);

  void* data() const { return data_.get(); }
  size_t bytes() const { return bytes_; }
  Device device() const { return device_; }
  // A contiguous tensor at `offset` bytes into the buffer.
  Tensor View(DType dtype, std::initializer_list<int64_t> shape, size_t offset = 0) const;

 private:
  std::unique_ptr<void, std::function<void(void*)>> data_{nullptr, [](void*) {}};
  size_t bytes_ = 0;
  Device device_ = Device::kCpu;
};

// An owned tensor: what a loader or a test hands over. Movable, not copyable.
struct OwnedTensor {
  Buffer buffer;
  Tensor view;
  static OwnedTensor Host(DType dtype, std::initializer_list<int64_t> shape);
};

class Workspace {
 public:
  using Allocate = std::function<Buffer(size_t bytes)>;
  explicit Workspace(Allocate allocate) : allocate_(std::move(allocate)) {}

  // A contiguous, 64-byte aligned, uninitialised tensor that lives until the scope that was open
  // when it was taken closes. Grows the workspace only while steps still get larger.
  Tensor Take(DType dtype, std::initializer_list<int64_t> shape);

  // Everything taken after a Scope opened is given back when it closes; scopes nest.
  class Scope {
   public:
    explicit Scope(Workspace& workspace);
    ~Scope();
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    Workspace& workspace_;
    size_t chunk_;
    size_t used_;
  };

  size_t capacity_bytes() const;

 private:
  struct Chunk {
    Buffer buffer;
    size_t used = 0;
  };
  Allocate allocate_;
  std::vector<Chunk> chunks_;
  size_t current_ = 0;
};

}  // namespace intermix
