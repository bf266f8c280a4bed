// Kernels that start before those ahead of them have ended (LaunchShape::early): what they touch
// before they wait may meet what is still running, and without a wait nobody is ahead for sure.
#include <cstdint>
#include <vector>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/ptx.h"
#include "tests/emulator/testing.h"

namespace intermix::cuda {
namespace {

using emu::DeviceArray;
using emu::Report;
using emu::Violation;

constexpr int kSize = 64;

// What a kernel does, in this order.
struct Acts {
  const int32_t* reads_first = nullptr;
  bool lets_first = false;
  bool waits = true;
  bool lets = false;
  const int32_t* reads = nullptr;
  int32_t* writes = nullptr;
};

__global__ void Act(Acts acts) {
  const auto i = static_cast<int>(threadIdx.x);
  int32_t value = acts.reads_first == nullptr ? 1 : acts.reads_first[i];
  if (acts.lets_first) let_next_kernel_start();
  if (acts.waits) wait_for_kernels_ahead();
  if (acts.lets) let_next_kernel_start();
  if (acts.reads != nullptr) value += acts.reads[i];
  if (acts.writes != nullptr) acts.writes[i] = value;
}

class EarlyStartTest : public testing::TestWithParam<emu::Options> {
 protected:
  void SetUp() override { ASSERT_EQ(cudaStreamCreate(&stream_), cudaSuccess); }
  void TearDown() override {
    EXPECT_EQ(cudaStreamDestroy(stream_), cudaSuccess);
    cudaDeviceReset();
  }
  void Start(const Acts& acts, bool early = true) {
    Launch("Act", Act, {.grid = 1, .block = kSize, .stream = stream_, .early = early}, acts);
  }
  void Copy(int32_t* to, const int32_t* from) {
    EXPECT_EQ(cudaMemcpyAsync(to, from, kSize * 4, cudaMemcpyDeviceToDevice, stream_), cudaSuccess);
  }
  bool Races() {
    EXPECT_EQ(cudaStreamSynchronize(stream_), cudaSuccess);
    const bool found = report_.Has(Violation::kGlobalRace);
    EXPECT_EQ(report_.findings().empty(), !found) << report_.ToString();
    report_.Clear();
    return found;
  }

  emu::ScopedOptions options_{GetParam()};
  cudaStream_t stream_ = nullptr;
  const DeviceArray<int32_t> a_{std::vector<int32_t>(kSize)}, b_{std::vector<int32_t>(kSize)},
      c_{std::vector<int32_t>(kSize)};
  Report report_;
};

INSTANTIATE_TEST_SUITE_P(Orders, EarlyStartTest, testing::ValuesIn(emu::AllOrders()));

TEST_P(EarlyStartTest, AKernelThatNeverWaitsIsAFault) {
  Start({.waits = false, .writes = a_.data()});
  EXPECT_EQ(cudaStreamSynchronize(stream_), cudaSuccess);
  EXPECT_TRUE(report_.Has(Violation::kNeverWaited)) << report_.ToString();
  report_.Clear();
  Start({.waits = false, .writes = a_.data()}, /*early=*/false);
  EXPECT_FALSE(Races());
}

TEST_P(EarlyStartTest, WhatTheKernelAheadWritesIsReadAfterTheWait) {
  Start({.lets = true, .writes = a_.data()});
  Start({.reads = a_.data(), .writes = b_.data()});
  EXPECT_FALSE(Races());
  Start({.lets = true, .writes = a_.data()});
  Start({.reads_first = a_.data(), .writes = b_.data()});
  EXPECT_TRUE(Races());
}

TEST_P(EarlyStartTest, AKernelThatLetsNobodyStartEndsFirst) {
  Start({.writes = a_.data()});
  Start({.reads_first = a_.data(), .writes = b_.data()});
  EXPECT_FALSE(Races());
}

TEST_P(EarlyStartTest, AKernelThatDoesNotStartEarlyNeedsNoWait) {
  Start({.lets = true, .writes = a_.data()});
  Start({.reads_first = a_.data(), .writes = b_.data()}, /*early=*/false);
  EXPECT_FALSE(Races());
}

TEST_P(EarlyStartTest, AWaitCoversAllKernelsAhead) {
  Start({.lets_first = true, .writes = a_.data()});
  Start({.lets_first = true, .writes = b_.data()});
  Start({.reads = a_.data(), .writes = b_.data()});
  EXPECT_FALSE(Races());
}

// The kernel between lets the next start: once it has waited, what lies before it is over.
TEST_P(EarlyStartTest, OneKernelAheadIsOverIfTheOneBetweenLetsStartAfterItsWait) {
  Start({.lets_first = true, .writes = a_.data()});
  Start({.lets = true, .writes = b_.data()});
  Start({.reads_first = a_.data(), .writes = c_.data()});
  EXPECT_FALSE(Races());
  Start({.lets_first = true, .writes = a_.data()});
  Start({.lets_first = true, .writes = b_.data()});
  Start({.reads_first = a_.data(), .writes = c_.data()});
  EXPECT_TRUE(Races());
}

TEST_P(EarlyStartTest, ACopyEndsBeforeTheNextKernelStarts) {
  Start({.lets_first = true, .writes = a_.data()});
  Copy(b_.data(), a_.data());
  Start({.reads_first = b_.data(), .writes = c_.data()});
  EXPECT_FALSE(Races());
}

TEST_P(EarlyStartTest, GraphsKeepWhoStartsEarly) {
  for (const bool first : {false, true}) {
    ASSERT_EQ(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeGlobal), cudaSuccess);
    Start({.lets = true, .writes = a_.data()});
    Start(first ? Acts{.reads_first = a_.data(), .writes = b_.data()}
                : Acts{.reads = a_.data(), .writes = b_.data()});
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t exec = nullptr;
    ASSERT_EQ(cudaStreamEndCapture(stream_, &graph), cudaSuccess);
    ASSERT_EQ(cudaGraphInstantiate(&exec, graph), cudaSuccess);
    EXPECT_EQ(cudaGraphLaunch(exec, stream_), cudaSuccess);
    EXPECT_EQ(Races(), first);
    EXPECT_EQ(cudaGraphExecDestroy(exec), cudaSuccess);
    EXPECT_EQ(cudaGraphDestroy(graph), cudaSuccess);
  }
}

}  // namespace
}  // namespace intermix::cuda
