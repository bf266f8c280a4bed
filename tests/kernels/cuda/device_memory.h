// DeviceMemory: a test's own piece of device memory, freed with it. Blocking copies only.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <utility>
#include <vector>

#include "kernels/core/check.h"
#include "kernels/core/tensor.h"

namespace intermix::cuda {

class DeviceMemory {
 public:
  static DeviceMemory Zeros(size_t bytes) {
    DeviceMemory memory(bytes);
    CHECK_EQ(cudaMemset(memory.data_, 0, memory.bytes_), cudaSuccess);
    return memory;
  }
  static DeviceMemory Copy(const void* host, size_t bytes) {
    DeviceMemory memory(bytes);
    if (bytes == 0) return memory;
    CHECK_EQ(cudaMemcpy(memory.data_, host, bytes, cudaMemcpyHostToDevice), cudaSuccess);
    return memory;
  }
  // A contiguous tensor; none where it is empty.
  static DeviceMemory Copy(const Tensor& tensor) {
    return Copy(tensor.raw(), static_cast<size_t>(tensor.bytes()));
  }
  template <typename T>
  static DeviceMemory Copy(const std::vector<T>& values) {
    return Copy(values.data(), values.size() * sizeof(T));
  }

  DeviceMemory(DeviceMemory&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), bytes_(other.bytes_) {}
  DeviceMemory& operator=(DeviceMemory&&) = delete;
  ~DeviceMemory() {
    if (data_ != nullptr) cudaFree(data_);
  }

  void* data() const { return data_; }
  template <typename T>
  T* at(size_t offset_bytes = 0) const {
    return reinterpret_cast<T*>(static_cast<char*>(data_) + offset_bytes);
  }

  // To a contiguous tensor of the same size, after every kernel before it is done.
  void CopyBack(const Tensor& tensor) const {
    CHECK_EQ(static_cast<size_t>(tensor.bytes()), bytes_);
    if (bytes_ == 0) return;
    CHECK_EQ(cudaMemcpy(tensor.raw(), data_, bytes_, cudaMemcpyDeviceToHost), cudaSuccess);
  }
  bool AllZero() const {
    std::vector<char> host(bytes_);
    CHECK_EQ(cudaMemcpy(host.data(), data_, bytes_, cudaMemcpyDeviceToHost), cudaSuccess);
    for (const char byte : host) {
      if (byte != 0) return false;
    }
    return true;
  }

 private:
  explicit DeviceMemory(size_t bytes) : bytes_(bytes) {
    if (bytes > 0) CHECK_EQ(cudaMalloc(&data_, bytes), cudaSuccess);
  }

  void* data_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace intermix::cuda
