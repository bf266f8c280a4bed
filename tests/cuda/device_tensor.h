// DeviceTensor: a copy of a host tensor in (emulated) device memory, for tests of kernels/cuda.
// CudaOpsTest: the base of such tests, one run for each thread order of the emulator.
// One thread; the default stream.
#pragma once

#include <cstdint>
#include <utility>

#include "gtest/gtest.h"
#include "kernels/core/buffer.h"
#include "kernels/reference/reference_backend.h"
#include "tests/emulator/testing.h"
#include "tests/testing/compare.h"
#include "tests/testing/random.h"

namespace intermix {

class DeviceTensor {
 public:
  // Copies a contiguous tensor of the host.
  explicit DeviceTensor(const Tensor& host) : bytes_(static_cast<size_t>(host.bytes())) {
    CHECK(host.contiguous());
    EXPECT_EQ(cudaMalloc(&data_, bytes_ + 1), cudaSuccess);
    if (bytes_ > 0) {
      EXPECT_EQ(cudaMemcpy(data_, host.raw(), bytes_, cudaMemcpyHostToDevice), cudaSuccess);
    }
    view = Like(host, data_, Device::kCuda);
  }
  explicit DeviceTensor(const OwnedTensor& host) : DeviceTensor(host.view) {}
  ~DeviceTensor() { cudaFree(data_); }
  DeviceTensor(const DeviceTensor&) = delete;
  DeviceTensor& operator=(const DeviceTensor&) = delete;

  Tensor view;

  // What the device memory holds after all work is done.
  OwnedTensor ToHost() const {
    OwnedTensor host{.buffer = Buffer::Host(bytes_), .view = {}};
    if (bytes_ > 0) {
      EXPECT_EQ(cudaMemcpy(host.buffer.data(), data_, bytes_, cudaMemcpyDeviceToHost), cudaSuccess);
    }
    host.view = Like(view, host.buffer.data(), Device::kCpu);
    return host;
  }

 private:
  static Tensor Like(const Tensor& t, void* data, Device device) {
    switch (t.rank()) {
      case 1:
        return Tensor(data, t.dtype(), {t.shape(0)}, device);
      case 2:
        return Tensor(data, t.dtype(), {t.shape(0), t.shape(1)}, device);
      case 3:
        return Tensor(data, t.dtype(), {t.shape(0), t.shape(1), t.shape(2)}, device);
      default:
        CHECK_EQ(t.rank(), 4);
        return Tensor(data, t.dtype(), {t.shape(0), t.shape(1), t.shape(2), t.shape(3)}, device);
    }
  }

  void* data_ = nullptr;
  size_t bytes_;
};

class CudaOpsTest : public ::testing::TestWithParam<emu::Options> {
 protected:
  ReferenceBackend& reference() { return reference_; }

 private:
  emu::ScopedOptions options_{GetParam()};
  ReferenceBackend reference_;
};

// Both copies of a tensor that an op has written: one by the reference, one on the device.
inline void ExpectSame(const DeviceTensor& actual, const OwnedTensor& expected) {
  EXPECT_TRUE(BitwiseEqual(actual.ToHost().view, expected.view));
}

inline std::string OrderName(const ::testing::TestParamInfo<emu::Options>& info) {
  switch (info.param.order) {
    case emu::Order::kForward:
      return "Forward";
    case emu::Order::kReversed:
      return "Reversed";
    default:
      return "Seed" + std::to_string(info.param.seed);
  }
}

}  // namespace intermix
