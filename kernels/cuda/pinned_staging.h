// PinnedStaging: pinned host memory through which pageable memory reaches the device and back, so
// that a caller may reuse its memory at once and copies still run on the stream. One thread.
#pragma once

#include <array>
#include <cstddef>

#include "kernels/cuda/cuda_context.h"

namespace intermix::cuda {

class PinnedStaging {
 public:
  // `context` outlives it.
  explicit PinnedStaging(const CudaContext& context);
  ~PinnedStaging();
  PinnedStaging(const PinnedStaging&) = delete;
  PinnedStaging& operator=(const PinnedStaging&) = delete;

  // Enqueues the copy; waits only where both halves are still on their way to the device.
  void Upload(const void* host, void* device, size_t bytes);
  // Returns when `host` holds what the stream's earlier work left at `device`.
  void Download(const void* device, void* host, size_t bytes);

 private:
  static constexpr size_t kHalfBytes = size_t{4} << 20;

  // Pinned memory that is free for `bytes` <= kHalfBytes.
  char* Reserve(size_t bytes);

  const CudaContext& context_;
  char* memory_ = nullptr;                   // two halves
  std::array<cudaEvent_t, 2> emptied_ = {};  // all copies from that half are done
  int half_ = 0;
  size_t used_ = 0;  // of the current half
};

}  // namespace intermix::cuda
