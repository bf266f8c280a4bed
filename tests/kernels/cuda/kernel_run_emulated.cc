#include "tests/emulator/testing.h"
#include "tests/kernels/cuda/kernel_run.h"

namespace intermix::cuda {

struct ScopedKernelRun::State {
  explicit State(int run) : options(emu::AllOrders()[static_cast<size_t>(run)]) {}
  emu::ScopedOptions options;
};

std::vector<KernelRun> AllKernelRuns() {
  return {{"Forward", 0}, {"Reversed", 1}, {"Seed1", 2}, {"Seed2", 3}};
}

ScopedKernelRun::ScopedKernelRun(const KernelRun& run)
    : state_(std::make_unique<State>(run.index)) {}

ScopedKernelRun::~ScopedKernelRun() { EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess); }

}  // namespace intermix::cuda
