// CudaContext: the GPU and the stream that one backend works on, and what becomes of errors.
// Immutable; outlives what is allocated from it.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>

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

 private:
  CudaContext(int device, int rank) : device_(device), rank_(rank) {}

  int device_;
  int rank_;
  cudaStream_t stream_ = nullptr;
  GemmDevice gemm_device_;
  std::string name_;
};

// Device memory that only grows; what it held is lost when it does. One stream uses it.
class Scratch {
 public:
  explicit Scratch(const CudaContext& context) : context_(context) {}
  void* Reserve(size_t bytes) {
    if (buffer_.bytes() < bytes) buffer_ = context_.Allocate(bytes);
    return buffer_.data();
  }

 private:
  const CudaContext& context_;
  Buffer buffer_;
};

}  // namespace intermix::cuda
