// How a test runs its kernels: on a GPU, or in the emulator in one of several thread orders. The
// build links one of kernel_run_device.cc and kernel_run_emulated.cc.
#pragma once

#include <cuda_runtime.h>

#include <memory>
#include <ostream>
#include <string>
#include <vector>

namespace intermix::cuda {

struct KernelRun {
  std::string name;  // letters and digits
  int index;         // of AllKernelRuns()
};
inline void PrintTo(const KernelRun& run, std::ostream* out) { *out << run.name; }

// Every kernel gives the same result in each of them.
std::vector<KernelRun> AllKernelRuns();

// Whether the device runs kernels of sm_90a.
inline bool DeviceHasWgmma() {
  int major = 0;
  int minor = 0;
  cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0);
  cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, 0);
  return major == 9 && minor == 0;
}

// Kernels run in this way for as long as it lives. In the end, a test fails for which the device
// reported an error that nobody looked at.
class ScopedKernelRun {
 public:
  explicit ScopedKernelRun(const KernelRun& run);
  ~ScopedKernelRun();
  ScopedKernelRun(const ScopedKernelRun&) = delete;
  ScopedKernelRun& operator=(const ScopedKernelRun&) = delete;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace intermix::cuda
