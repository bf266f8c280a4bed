// CudaContext: the GPU and the stream that one backend works on, and what becomes of errors.
// Outlives what is allocated from it. Engine thread.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/core/buffer.h"
#include "kernels/cuda/gemm_select.h"

namespace intermix::cuda {

class CudaContext {
 public:
  //   UNAVAILABLE: no driver or no GPU; INVALID_ARGUMENT: no such GPU, or too old.
  static absl::StatusOr<std::unique_ptr<CudaContext>> Make(int device, int rank);
  ~CudaContext();
  CudaContext(const CudaContext&) = delete;
  CudaContext& operator=(const CudaContext&) = delete;

  int device() const { return device_; }
  cudaStream_t stream() const { return stream_; }
  const GemmDevice& gemm_device() const { return gemm_device_; }
  const std::string& name() const { return name_; }  // "cuda NVIDIA H200"

  // Makes this GPU the calling thread's.
  void MakeCurrent() const;
  // Ends the process with a sentence that names rank and GPU, unless `error` is cudaSuccess.
  void Check(cudaError_t error, const std::string& what) const;
  // Zeroed device memory. It is fatal when there is none left.
  Buffer Allocate(size_t bytes) const;
  int64_t free_bytes() const;

  // How often an op needed the host for more than a launch: an allocation, a copy of host memory, a
  // wait. Ops that do cannot be recorded in a graph.
  int64_t host_work() const { return host_work_; }
  void CountHostWork() const { ++host_work_; }

 private:
  CudaContext(int device, int rank) : device_(device), rank_(rank) {}

  int device_;
  int rank_;
  cudaStream_t stream_ = nullptr;
  GemmDevice gemm_device_;
  std::string name_;
  mutable int64_t host_work_ = 0;
};

// Device memory that only grows; what it held is lost when it does. One stream uses it. What was
// outgrown is kept, since recorded graphs still use it; it at least doubles, so that is not much.
class Scratch {
 public:
  explicit Scratch(const CudaContext& context) : context_(context) {}
  void* Reserve(size_t bytes) {
    const size_t held = buffers_.empty() ? 0 : buffers_.back().bytes();
    if (buffers_.empty() || held < bytes) {
      buffers_.push_back(context_.Allocate(std::max(bytes, 2 * held)));
    }
    return buffers_.back().data();
  }

 private:
  const CudaContext& context_;
  std::vector<Buffer> buffers_;
};

}  // namespace intermix::cuda
