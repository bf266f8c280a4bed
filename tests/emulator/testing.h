// Helpers of tests that run kernels in the emulator: device arrays and options for one test.
#pragma once

#include <gtest/gtest.h>

#include <ostream>
#include <vector>

#include "cuda_runtime.h"
#include "tests/emulator/emulator.h"

namespace emu {

// An array in device memory, freed at the end of the scope.
template <typename T>
class DeviceArray {
 public:
  explicit DeviceArray(size_t size) : size_(size) {
    EXPECT_EQ(cudaMalloc(&data_, size * sizeof(T)), cudaSuccess);
  }
  explicit DeviceArray(const std::vector<T>& values) : DeviceArray(values.size()) {
    EXPECT_EQ(cudaMemcpy(data_, values.data(), size_ * sizeof(T), cudaMemcpyHostToDevice),
              cudaSuccess);
  }
  ~DeviceArray() { cudaFree(data_); }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;

  T* data() const { return data_; }
  // Waits for the default stream.
  std::vector<T> ToHost() const {
    std::vector<T> values(size_);
    EXPECT_EQ(cudaMemcpy(values.data(), data_, size_ * sizeof(T), cudaMemcpyDeviceToHost),
              cudaSuccess);
    return values;
  }

 private:
  T* data_ = nullptr;
  size_t size_;
};

// The options of one test; the former ones return with the scope.
class ScopedOptions {
 public:
  explicit ScopedOptions(const Options& options) : saved_(GetOptions()) { SetOptions(options); }
  ~ScopedOptions() { SetOptions(saved_); }
  ScopedOptions(const ScopedOptions&) = delete;
  ScopedOptions& operator=(const ScopedOptions&) = delete;

 private:
  Options saved_;
};

// How gtest prints options in a test's name.
inline void PrintTo(const Options& options, std::ostream* out) {
  *out << (options.order == Order::kForward    ? "forward"
           : options.order == Order::kReversed ? "reversed"
                                               : "seed ");
  if (options.order == Order::kSeeded) *out << options.seed;
}

// The orders in which every kernel must give the same result.
inline std::vector<Options> AllOrders() {
  return {{.order = Order::kForward},
          {.order = Order::kReversed},
          {.seed = 1, .order = Order::kSeeded},
          {.seed = 2, .order = Order::kSeeded}};
}

}  // namespace emu
