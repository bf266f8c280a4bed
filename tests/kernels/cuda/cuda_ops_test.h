// DeviceTensor: a copy of a host tensor in device memory. CudaOpsTest: the base of tests of the
// kernels, one run for each KernelRun. One thread; the default stream.
#pragma once

#include "gtest/gtest.h"
#include "kernels/core/buffer.h"
#include "kernels/reference/reference_backend.h"
#include "tests/kernels/cuda/device_memory.h"
#include "tests/kernels/cuda/kernel_run.h"
#include "tests/testing/compare.h"
#include "tests/testing/random.h"

namespace intermix {

class DeviceTensor {
 public:
  // Copies a contiguous tensor of the host.
  explicit DeviceTensor(const Tensor& host) : memory_(cuda::DeviceMemory::Copy(host)) {
    CHECK(host.contiguous());
    view = Like(host, memory_.data(), Device::kCuda);
  }
  explicit DeviceTensor(const OwnedTensor& host) : DeviceTensor(host.view) {}

  Tensor view;

  // What the device memory holds after all work is done.
  OwnedTensor ToHost() const {
    OwnedTensor host{.buffer = Buffer::Host(static_cast<size_t>(view.bytes())), .view = {}};
    host.view = Like(view, host.buffer.data(), Device::kCpu);
    memory_.CopyBack(host.view);
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

  cuda::DeviceMemory memory_;
};

class CudaOpsTest : public ::testing::TestWithParam<cuda::KernelRun> {
 protected:
  ReferenceBackend& reference() { return reference_; }

 private:
  cuda::ScopedKernelRun run_{GetParam()};
  ReferenceBackend reference_;
};

// Both copies of a tensor that an op has written: one by the reference, one on the device.
inline void ExpectSame(const DeviceTensor& actual, const OwnedTensor& expected) {
  EXPECT_TRUE(BitwiseEqual(actual.ToHost().view, expected.view));
}

inline std::string RunName(const ::testing::TestParamInfo<cuda::KernelRun>& run) {
  return run.param.name;
}

}  // namespace intermix
