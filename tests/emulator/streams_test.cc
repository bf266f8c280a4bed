// The fake runtime: streams run late and in an order that only events fix, copies and kernels on
// unordered streams race, graphs replay, memory is limited, and the host stays out of the device.
#include <cstdint>
#include <string>
#include <thread>
#include <vector>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/ptx.h"
#include "tests/emulator/testing.h"

namespace intermix::cuda {
namespace {

using emu::DeviceArray;
using emu::Report;
using emu::Violation;

__global__ void Fill(int32_t* data, int32_t value, int n) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < n) data[i] = value;
}

__global__ void AddOne(const int32_t* in, int32_t* out, int n) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < n) out[i] = in[i] + 1;
}

constexpr int kSize = 100;
constexpr size_t kBytes = kSize * sizeof(int32_t);

class StreamsTest : public testing::TestWithParam<emu::Options> {
 protected:
  void SetUp() override {
    for (cudaStream_t& stream : streams_) {
      ASSERT_EQ(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), cudaSuccess);
    }
    ASSERT_EQ(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming), cudaSuccess);
    ASSERT_EQ(cudaMallocHost(&pinned_, kBytes), cudaSuccess);
  }
  void TearDown() override {
    EXPECT_EQ(cudaFreeHost(pinned_), cudaSuccess);
    EXPECT_EQ(cudaEventDestroy(event_), cudaSuccess);
    for (cudaStream_t stream : streams_) EXPECT_EQ(cudaStreamDestroy(stream), cudaSuccess);
  }

  void FillOn(int stream, int32_t* data, int32_t value) {
    Launch("Fill", Fill, {.grid = 2, .block = 64, .stream = streams_[stream]}, data, value, kSize);
  }
  void AddOneOn(int stream, const int32_t* in, int32_t* out) {
    Launch("AddOne", AddOne, {.grid = 2, .block = 64, .stream = streams_[stream]}, in, out, kSize);
  }
  void Order(int first, int second) {
    EXPECT_EQ(cudaEventRecord(event_, streams_[first]), cudaSuccess);
    EXPECT_EQ(cudaStreamWaitEvent(streams_[second], event_), cudaSuccess);
  }
  std::vector<int32_t> Pinned() const { return {pinned_, pinned_ + kSize}; }

  emu::ScopedOptions options_{GetParam()};
  cudaStream_t streams_[2] = {};
  cudaEvent_t event_ = nullptr;
  int32_t* pinned_ = nullptr;
  const DeviceArray<int32_t> a_{kSize}, b_{kSize};
  Report report_;
};

INSTANTIATE_TEST_SUITE_P(Orders, StreamsTest, testing::ValuesIn(emu::AllOrders()));

TEST_P(StreamsTest, AnEventOrdersTwoStreams) {
  FillOn(0, a_.data(), 41);
  Order(0, 1);
  AddOneOn(1, a_.data(), b_.data());
  EXPECT_EQ(cudaStreamSynchronize(streams_[1]), cudaSuccess);
  EXPECT_EQ(b_.ToHost(), std::vector<int32_t>(kSize, 42));
  EXPECT_TRUE(report_.findings().empty()) << report_.ToString();
}

TEST_P(StreamsTest, TwoStreamsWithoutAnEventRace) {
  FillOn(0, a_.data(), 41);
  AddOneOn(1, a_.data(), b_.data());
  EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  EXPECT_TRUE(report_.Has(Violation::kGlobalRace));
}

TEST_P(StreamsTest, ACopyOnAnotherStreamRacesToo) {
  FillOn(0, a_.data(), 41);
  EXPECT_EQ(cudaMemcpyAsync(pinned_, a_.data(), kBytes, cudaMemcpyDeviceToHost, streams_[1]),
            cudaSuccess);
  EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  EXPECT_TRUE(report_.Has(Violation::kGlobalRace));
}

TEST_P(StreamsTest, WaitingOnTheHostOrdersStreams) {
  FillOn(0, a_.data(), 41);
  EXPECT_EQ(cudaStreamSynchronize(streams_[0]), cudaSuccess);
  AddOneOn(1, a_.data(), b_.data());
  EXPECT_EQ(cudaStreamSynchronize(streams_[1]), cudaSuccess);
  EXPECT_TRUE(report_.findings().empty()) << report_.ToString();
}

TEST_P(StreamsTest, AnEventCoversOnlyWhatWasQueuedBeforeIt) {
  Order(0, 1);
  FillOn(0, a_.data(), 41);
  AddOneOn(1, a_.data(), b_.data());
  EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  EXPECT_TRUE(report_.Has(Violation::kGlobalRace));
}

TEST_P(StreamsTest, TheDefaultStreamWaitsForBlockingStreamsOnly) {
  cudaStream_t blocking = nullptr;
  ASSERT_EQ(cudaStreamCreate(&blocking), cudaSuccess);
  Launch("Fill", Fill, {.grid = 2, .block = 64, .stream = blocking}, a_.data(), 1, kSize);
  Launch("AddOne", AddOne, {.grid = 2, .block = 64}, a_.data(), b_.data(), kSize);
  Launch("AddOne", AddOne, {.grid = 2, .block = 64, .stream = blocking}, b_.data(), a_.data(),
         kSize);
  EXPECT_EQ(cudaStreamSynchronize(blocking), cudaSuccess);
  EXPECT_EQ(a_.ToHost()[0], 3);
  EXPECT_TRUE(report_.findings().empty()) << report_.ToString();
  AddOneOn(0, a_.data(), b_.data());
  Launch("Fill", Fill, {.grid = 2, .block = 64}, a_.data(), 1, kSize);
  EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  EXPECT_TRUE(report_.Has(Violation::kGlobalRace));
  EXPECT_EQ(cudaStreamDestroy(blocking), cudaSuccess);
}

TEST_P(StreamsTest, NothingRunsBeforeSomebodyWaits) {
  FillOn(0, a_.data(), 5);
  EXPECT_EQ(cudaMemcpyAsync(pinned_, a_.data(), kBytes, cudaMemcpyDeviceToHost, streams_[0]),
            cudaSuccess);
  EXPECT_EQ(Pinned(), std::vector<int32_t>(kSize, -1));  // poison
  EXPECT_EQ(cudaStreamQuery(streams_[0]), cudaErrorNotReady);
  EXPECT_EQ(cudaStreamSynchronize(streams_[0]), cudaSuccess);
  EXPECT_EQ(cudaStreamQuery(streams_[0]), cudaSuccess);
  EXPECT_EQ(Pinned(), std::vector<int32_t>(kSize, 5));
  EXPECT_TRUE(report_.findings().empty()) << report_.ToString();
}

TEST_P(StreamsTest, PinnedMemoryMustStayUntilItsCopyRan) {
  std::fill(pinned_, pinned_ + kSize, 9);
  EXPECT_EQ(cudaMemcpyAsync(a_.data(), pinned_, kBytes, cudaMemcpyHostToDevice, streams_[0]),
            cudaSuccess);
  EXPECT_EQ(cudaStreamSynchronize(streams_[0]), cudaSuccess);
  EXPECT_TRUE(report_.findings().empty()) << report_.ToString();
  EXPECT_EQ(cudaMemcpyAsync(a_.data(), pinned_, kBytes, cudaMemcpyHostToDevice, streams_[0]),
            cudaSuccess);
  pinned_[3] = 10;
  EXPECT_EQ(cudaStreamSynchronize(streams_[0]), cudaSuccess);
  EXPECT_TRUE(report_.Has(Violation::kHostRace));
}

TEST_P(StreamsTest, PinnedMemoryThatACopyWillWriteIsNotTheHosts) {
  FillOn(0, a_.data(), 5);
  EXPECT_EQ(cudaMemcpyAsync(pinned_, a_.data(), kBytes, cudaMemcpyDeviceToHost, streams_[0]),
            cudaSuccess);
  pinned_[0] = 1;
  EXPECT_EQ(cudaStreamSynchronize(streams_[0]), cudaSuccess);
  EXPECT_TRUE(report_.Has(Violation::kHostRace));
}

TEST_P(StreamsTest, PageableMemoryMayChangeAfterTheCall) {
  std::vector<int32_t> values(kSize, 3);
  EXPECT_EQ(cudaMemcpyAsync(a_.data(), values.data(), kBytes, cudaMemcpyHostToDevice, streams_[0]),
            cudaSuccess);
  values.assign(kSize, 4);
  EXPECT_EQ(cudaMemcpyAsync(values.data(), a_.data(), kBytes, cudaMemcpyDeviceToHost, streams_[0]),
            cudaSuccess);
  EXPECT_EQ(values, std::vector<int32_t>(kSize, 3));
  EXPECT_TRUE(report_.findings().empty()) << report_.ToString();
}

TEST_P(StreamsTest, AHostFunctionRunsInItsPlace) {
  int32_t seen = 0;
  FillOn(0, a_.data(), 8);
  EXPECT_EQ(cudaMemcpyAsync(pinned_, a_.data(), kBytes, cudaMemcpyDeviceToHost, streams_[0]),
            cudaSuccess);
  struct Both {
    int32_t* from;
    int32_t* to;
  } both = {pinned_, &seen};
  const auto copy = [](void* data) {
    const Both& b = *static_cast<Both*>(data);
    *b.to = *b.from;
  };
  EXPECT_EQ(cudaLaunchHostFunc(streams_[0], copy, &both), cudaSuccess);
  EXPECT_EQ(seen, 0);
  EXPECT_EQ(cudaStreamSynchronize(streams_[0]), cudaSuccess);
  EXPECT_EQ(seen, 8);
}

// --- graphs ---

class GraphTest : public StreamsTest {
 protected:
  // Captures `work` on stream 0.
  template <typename Work>
  cudaGraphExec_t Capture(const Work& work) {
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t exec = nullptr;
    EXPECT_EQ(cudaStreamBeginCapture(streams_[0], cudaStreamCaptureModeThreadLocal), cudaSuccess);
    work();
    EXPECT_EQ(cudaStreamEndCapture(streams_[0], &graph), cudaSuccess);
    EXPECT_EQ(cudaGraphInstantiate(&exec, graph), cudaSuccess);
    EXPECT_EQ(cudaGraphDestroy(graph), cudaSuccess);
    return exec;
  }
};

INSTANTIATE_TEST_SUITE_P(Orders, GraphTest, testing::ValuesIn(emu::AllOrders()));

TEST_P(GraphTest, ReplaysWhatWasCapturedAndRunsNothingMeanwhile) {
  const cudaGraphExec_t exec = Capture([&] {
    EXPECT_EQ(cudaMemcpyAsync(a_.data(), pinned_, kBytes, cudaMemcpyHostToDevice, streams_[0]),
              cudaSuccess);
    AddOneOn(0, a_.data(), b_.data());
  });
  for (const int32_t value : {1, 7}) {
    std::fill(pinned_, pinned_ + kSize, value);
    EXPECT_EQ(cudaGraphLaunch(exec, streams_[0]), cudaSuccess);
    EXPECT_EQ(cudaStreamSynchronize(streams_[0]), cudaSuccess);
    EXPECT_EQ(b_.ToHost(), std::vector<int32_t>(kSize, value + 1));
  }
  EXPECT_EQ(cudaGraphExecDestroy(exec), cudaSuccess);
  EXPECT_TRUE(report_.findings().empty()) << report_.ToString();
}

TEST_P(GraphTest, ABranchThatIsNotJoinedEndsTheCapture) {
  cudaGraph_t graph = nullptr;
  ASSERT_EQ(cudaStreamBeginCapture(streams_[0], cudaStreamCaptureModeThreadLocal), cudaSuccess);
  FillOn(0, a_.data(), 1);
  Order(0, 1);
  FillOn(1, b_.data(), 1);
  EXPECT_EQ(cudaStreamEndCapture(streams_[0], &graph), cudaErrorStreamCaptureUnjoined);
  EXPECT_EQ(graph, nullptr);
}

TEST_P(GraphTest, BranchesOfAGraphAreOrderedByTheirEventsOnly) {
  const DeviceArray<int32_t> c(kSize);
  const auto diamond = [&](int32_t* left) {
    FillOn(0, a_.data(), 1);
    Order(0, 1);
    AddOneOn(0, a_.data(), left);
    AddOneOn(1, a_.data(), c.data());
    Order(1, 0);
    AddOneOn(0, c.data(), a_.data());
  };
  const cudaGraphExec_t good = Capture([&] { diamond(b_.data()); });
  EXPECT_EQ(cudaGraphLaunch(good, streams_[0]), cudaSuccess);
  EXPECT_EQ(cudaStreamSynchronize(streams_[0]), cudaSuccess);
  EXPECT_EQ(a_.ToHost()[0], 3);
  EXPECT_TRUE(report_.findings().empty()) << report_.ToString();
  const cudaGraphExec_t bad = Capture([&] { diamond(c.data()); });
  EXPECT_EQ(cudaGraphLaunch(bad, streams_[0]), cudaSuccess);
  EXPECT_EQ(cudaStreamSynchronize(streams_[0]), cudaSuccess);
  EXPECT_TRUE(report_.Has(Violation::kGlobalRace));
  EXPECT_EQ(cudaGraphExecDestroy(good), cudaSuccess);
  EXPECT_EQ(cudaGraphExecDestroy(bad), cudaSuccess);
}

TEST_P(GraphTest, WaitingAndAllocatingSpoilACapture) {
  cudaGraph_t graph = nullptr;
  void* memory = nullptr;
  ASSERT_EQ(cudaStreamBeginCapture(streams_[0], cudaStreamCaptureModeThreadLocal), cudaSuccess);
  EXPECT_EQ(cudaMalloc(&memory, 64), cudaErrorStreamCaptureUnsupported);
  EXPECT_EQ(cudaStreamSynchronize(streams_[0]), cudaErrorStreamCaptureUnsupported);
  EXPECT_EQ(cudaStreamEndCapture(streams_[0], &graph), cudaErrorStreamCaptureInvalidated);
  cudaGetLastError();
}

TEST(OptionsTest, AreReadFromAText) {
  emu::Options options;
  EXPECT_EQ(emu::ParseOptions("seed=7,order=seeded,shadow=off,devices=4,memory=4096", options), "");
  EXPECT_EQ(options.seed, 7u);
  EXPECT_EQ(options.order, emu::Order::kSeeded);
  EXPECT_FALSE(options.shadow);
  EXPECT_TRUE(options.protect);
  EXPECT_EQ(options.devices, 4);
  EXPECT_EQ(options.device_memory_bytes, 4096u);
  for (const char* wrong :
       {"seed", "seed=x", "order=none", "shadow=1", "devices=99", "color=red"}) {
    EXPECT_EQ(emu::ParseOptions(std::string("seed=1,") + wrong, options), wrong);
  }
}

// --- memory and launches that the device refuses ---

TEST(DeviceMemoryTest, EndsAtItsLimit) {
  const emu::ScopedOptions options({.device_memory_bytes = 1 << 20});
  size_t free_bytes = 0, total = 0;
  ASSERT_EQ(cudaMemGetInfo(&free_bytes, &total), cudaSuccess);
  EXPECT_EQ(total, size_t{1} << 20);
  void* memory = nullptr;
  void* more = nullptr;
  ASSERT_EQ(cudaMalloc(&memory, free_bytes - 100), cudaSuccess);
  EXPECT_EQ(cudaMalloc(&more, 200), cudaErrorMemoryAllocation);
  EXPECT_EQ(cudaGetLastError(), cudaErrorMemoryAllocation);
  EXPECT_EQ(cudaGetLastError(), cudaSuccess);  // not sticky
  ASSERT_EQ(cudaFree(memory), cudaSuccess);
  EXPECT_EQ(cudaMalloc(&more, 200), cudaSuccess);
  EXPECT_EQ(cudaFree(more), cudaSuccess);
  EXPECT_EQ(cudaFree(more), cudaErrorInvalidValue);
  cudaGetLastError();
}

TEST(DeviceMemoryTest, CopiesMustLieInOneAllocation) {
  const DeviceArray<int32_t> a(4);
  int32_t host[8] = {};
  EXPECT_EQ(cudaMemcpy(host, a.data(), 20, cudaMemcpyDeviceToHost), cudaErrorInvalidValue);
  EXPECT_EQ(cudaMemcpy(host, a.data(), 16, cudaMemcpyHostToDevice), cudaErrorInvalidValue);
  EXPECT_EQ(cudaMemset(a.data() + 3, 0, 8), cudaErrorInvalidValue);
  cudaGetLastError();
}

__global__ void Nothing() {}

TEST(LaunchTest, RefusesWhatADeviceCannotDo) {
  const auto launch = [](dim3 grid, dim3 block, size_t shared) {
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = shared;
    return cudaLaunchKernelEx(&config, Nothing);
  };
  EXPECT_EQ(launch(1, 1024, 48 * 1024), cudaSuccess);
  EXPECT_EQ(launch(1, 1025, 0), cudaErrorInvalidConfiguration);
  EXPECT_EQ(launch(dim3(1, 65536), 32, 0), cudaErrorInvalidConfiguration);
  EXPECT_EQ(launch(1, 32, 48 * 1024 + 1), cudaErrorInvalidValue);
  EXPECT_EQ(cudaFuncSetAttribute(Nothing, cudaFuncAttributeMaxDynamicSharedMemorySize, 65536),
            cudaSuccess);
  EXPECT_EQ(launch(1, 32, 65536), cudaSuccess);
  EXPECT_EQ(launch(1, 32, 65540), cudaErrorInvalidValue);
  EXPECT_EQ(cudaFuncSetAttribute(Nothing, cudaFuncAttributeMaxDynamicSharedMemorySize, 1 << 20),
            cudaErrorInvalidValue);
  EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  cudaGetLastError();
}

// --- the host stays out ---

TEST(HostAccessDeathTest, NamesTheAllocation) {
  const DeviceArray<int32_t> a(16);
  EXPECT_DEATH(a.data()[5] = 1,
               "device memory touched by the host: .* byte 20 of a device allocation of 64 bytes");
}

TEST(HostAccessDeathTest, AViolationWithoutAReportIsFatal) {
  const auto run = [] {
    const DeviceArray<int32_t> a(16);
    Launch("Fill", Fill, {.grid = 1, .block = 32}, a.data(), 1, 32);
    cudaDeviceSynchronize();
  };
  EXPECT_DEATH(run(),
               "out-of-bounds access: kernel .*Fill.*block \\(0, 0, 0\\), thread \\(16, 0, 0\\)"
               ".* writes 4 bytes");
}

TEST(DevicesTest, ThreadsDriveTheirOwnAtOnce) {
  const emu::ScopedOptions options({.devices = 2});
  std::vector<std::thread> ranks;
  for (int device = 0; device < 2; ++device) {
    ranks.emplace_back([device] {
      ASSERT_EQ(cudaSetDevice(device), cudaSuccess);
      const DeviceArray<int32_t> a(kSize), b(kSize);
      for (int round = 0; round < 20; ++round) {
        Launch("Fill", Fill, {.grid = 4, .block = 32}, a.data(), round + device, kSize);
        Launch("AddOne", AddOne, {.grid = 4, .block = 32}, a.data(), b.data(), kSize);
        ASSERT_EQ(b.ToHost(), std::vector<int32_t>(kSize, round + device + 1));
      }
    });
  }
  for (std::thread& rank : ranks) rank.join();
}

TEST(DevicesTest, EachHasItsOwnMemory) {
  const emu::ScopedOptions options({.devices = 2});
  Report report;
  int count = 0;
  EXPECT_EQ(cudaGetDeviceCount(&count), cudaSuccess);
  EXPECT_EQ(count, 2);
  EXPECT_EQ(cudaSetDevice(2), cudaErrorInvalidDevice);
  const DeviceArray<int32_t> a(kSize);
  ASSERT_EQ(cudaSetDevice(1), cudaSuccess);
  const DeviceArray<int32_t> b(kSize);
  Launch("Fill", Fill, {.grid = 4, .block = 32}, b.data(), 6, kSize);
  EXPECT_EQ(cudaMemcpy(a.data(), b.data(), kBytes, cudaMemcpyDeviceToDevice), cudaSuccess);
  EXPECT_EQ(a.ToHost()[kSize - 1], 6);
  EXPECT_TRUE(report.findings().empty()) << report.ToString();
  Launch("Fill", Fill, {.grid = 4, .block = 32}, a.data(), 6, kSize);
  EXPECT_EQ(cudaDeviceSynchronize(), cudaErrorIllegalAddress);
  EXPECT_TRUE(report.Has(Violation::kOutOfBounds));
  cudaDeviceReset();
  ASSERT_EQ(cudaSetDevice(0), cudaSuccess);
  cudaGetLastError();
}

}  // namespace
}  // namespace intermix::cuda
