// A kernel for each fault that run-to-barrier emulation would hide, next to the correct one: the
// emulator must report the first in every thread order and say nothing of the second.
#include <cstdint>
#include <string>
#include <vector>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/ptx.h"
#include "tests/emulator/testing.h"

namespace intermix::cuda {
namespace {

using emu::DeviceArray;
using emu::Report;
using emu::Violation;

class KernelFaultsTest : public testing::TestWithParam<emu::Options> {
 protected:
  ~KernelFaultsTest() override { cudaDeviceReset(); }

  // Launches and waits; the device's error.
  template <typename... Params, typename... Args>
  cudaError_t Run(void (*kernel)(Params...), const LaunchShape& shape, Args... args) {
    Launch("kernel", kernel, shape, args...);
    return cudaDeviceSynchronize();
  }

  emu::ScopedOptions options_{GetParam()};
  const DeviceArray<int32_t> data_{std::vector<int32_t>(1024)};
  Report report_;
};

INSTANTIATE_TEST_SUITE_P(Orders, KernelFaultsTest, testing::ValuesIn(emu::AllOrders()));

int32_t* SharedInts() { return reinterpret_cast<int32_t*>(shared_memory()); }
int ThreadId() { return static_cast<int>(threadIdx.x); }

// --- races within a block ---

__global__ void ReverseInShared(int32_t* out, bool barrier) {
  int32_t* values = SharedInts();
  const int t = ThreadId(), n = static_cast<int>(blockDim.x);
  values[t] = t;
  if (barrier) sync_block();
  out[t] = values[n - 1 - t];
}

TEST_P(KernelFaultsTest, ReadingSharedMemoryBeforeTheBarrierIsARace) {
  Run(ReverseInShared, {.grid = 1, .block = 128, .shared_bytes = 512}, data_.data(), true);
  EXPECT_TRUE(report_.findings().empty()) << report_.ToString();
  Run(ReverseInShared, {.grid = 1, .block = 128, .shared_bytes = 512}, data_.data(), false);
  EXPECT_TRUE(report_.Has(Violation::kSharedRace));
}

__global__ void ReuseShared(int32_t* out, bool barrier) {
  int32_t* values = SharedInts();
  const int t = ThreadId(), n = static_cast<int>(blockDim.x);
  for (int round = 0; round < 2; ++round) {
    values[t] = t + round;
    sync_block();
    out[t] = values[(t + 1) % n];
    if (barrier) sync_block();
  }
}

TEST_P(KernelFaultsTest, OverwritingSharedMemoryThatOthersStillReadIsARace) {
  Run(ReuseShared, {.grid = 1, .block = 128, .shared_bytes = 512}, data_.data(), true);
  EXPECT_TRUE(report_.findings().empty()) << report_.ToString();
  Run(ReuseShared, {.grid = 1, .block = 128, .shared_bytes = 512}, data_.data(), false);
  EXPECT_TRUE(report_.Has(Violation::kSharedRace));
}

// Neighbours within a warp are ordered by sync_warp but not by a shuffle.
__global__ void ExchangeInWarp(int32_t* out, bool sync) {
  int32_t* values = SharedInts();
  const int t = ThreadId();
  values[t] = t;
  if (sync) {
    sync_warp();
  } else {
    out[t] = shfl_xor_s32(t, 1);
  }
  out[t] = values[t ^ 1];
}

TEST_P(KernelFaultsTest, OnlySyncWarpOrdersSharedMemoryWithinAWarp) {
  Run(ExchangeInWarp, {.grid = 1, .block = 64, .shared_bytes = 256}, data_.data(), true);
  EXPECT_TRUE(report_.findings().empty()) << report_.ToString();
  Run(ExchangeInWarp, {.grid = 1, .block = 64, .shared_bytes = 256}, data_.data(), false);
  EXPECT_TRUE(report_.Has(Violation::kSharedRace));
}

// sync_warp does not order warps with each other.
__global__ void ExchangeBetweenWarps(int32_t* out, int distance) {
  int32_t* values = SharedInts();
  const int t = ThreadId();
  values[t] = t;
  sync_warp();
  out[t] = values[t ^ distance];
}

TEST_P(KernelFaultsTest, SyncWarpDoesNotOrderTwoWarps) {
  Run(ExchangeBetweenWarps, {.grid = 1, .block = 64, .shared_bytes = 256}, data_.data(), 16);
  EXPECT_TRUE(report_.findings().empty()) << report_.ToString();
  Run(ExchangeBetweenWarps, {.grid = 1, .block = 64, .shared_bytes = 256}, data_.data(), 32);
  EXPECT_TRUE(report_.Has(Violation::kSharedRace));
}

__global__ void WriteAfterSyncWarp(int32_t* out, int writer, int index) {
  sync_warp();
  if (ThreadId() == writer) out[index] = 1;
}

TEST_P(KernelFaultsTest, WhatFollowsSyncWarpIsChecked) {
  Run(WriteAfterSyncWarp, {.grid = 1, .block = 32}, data_.data(), 5, 1023);
  EXPECT_TRUE(report_.findings().empty()) << report_.ToString();
  Run(WriteAfterSyncWarp, {.grid = 1, .block = 32}, data_.data(), 5, 1024);
  EXPECT_TRUE(report_.Has(Violation::kOutOfBounds));
  EXPECT_NE(report_.ToString().find("thread (5, 0, 0)"), std::string::npos) << report_.ToString();
}

// Bytes of one word that belong to different threads are no race; the same byte is.
__global__ void WriteBytes(int32_t* out, int step) {
  uint8_t* bytes = reinterpret_cast<uint8_t*>(shared_memory());
  const int t = ThreadId();
  bytes[t * step / 2] = static_cast<uint8_t>(t);
  sync_block();
  out[t] = SharedInts()[t / 4];
}

TEST_P(KernelFaultsTest, RacesAreFoundByTheByte) {
  Run(WriteBytes, {.grid = 1, .block = 64, .shared_bytes = 64}, data_.data(), 2);
  EXPECT_TRUE(report_.findings().empty()) << report_.ToString();
  Run(WriteBytes, {.grid = 1, .block = 64, .shared_bytes = 64}, data_.data(), 1);
  EXPECT_TRUE(report_.Has(Violation::kSharedRace));
}

__global__ void ShiftInGlobal(int32_t* data, bool barrier) {
  const int t = ThreadId();
  const int32_t value = data[(t + 1) % static_cast<int>(blockDim.x)];
  if (barrier) sync_block();
  data[t] = value;
}

TEST_P(KernelFaultsTest, GlobalMemoryRacesWithinABlock) {
  Run(ShiftInGlobal, {.grid = 1, .block = 64}, data_.data(), true);
  EXPECT_TRUE(report_.findings().empty()) << report_.ToString();
  Run(ShiftInGlobal, {.grid = 1, .block = 64}, data_.data(), false);
  EXPECT_TRUE(report_.Has(Violation::kGlobalRace));
}

// --- races between blocks ---

__global__ void AddToOne(int32_t* data, bool atomic) {
  if (atomic) {
    red_add_s32(data, 1);
  } else if (ThreadId() == 0) {
    *data = *data + 1;
  }
}

TEST_P(KernelFaultsTest, BlocksThatAddWithoutAtomicsRace) {
  Run(AddToOne, {.grid = 4, .block = 32}, data_.data(), true);
  EXPECT_TRUE(report_.findings().empty()) << report_.ToString();
  EXPECT_EQ(data_.ToHost()[0], 128);
  Run(AddToOne, {.grid = 4, .block = 32}, data_.data(), false);
  EXPECT_TRUE(report_.Has(Violation::kGlobalRace));
}

struct LastBlock {
  bool release_fence = true;
  bool barrier = true;
  bool acquire_fence = true;
};

// Every block stores its part; the last one to count itself sums all parts.
__global__ void SumInLastBlock(int32_t* parts, int32_t* counter, int32_t* sum, LastBlock with) {
  int32_t* is_last = SharedInts();
  const int t = ThreadId(), n = static_cast<int>(blockDim.x);
  const int blocks = static_cast<int>(gridDim.x);
  parts[static_cast<int>(blockIdx.x) * n + t] = t;
  if (with.release_fence) fence_device();
  if (with.barrier) sync_block();
  if (t == 0) *is_last = atom_add_s32(counter, 1) == blocks - 1;
  sync_block();
  if (*is_last == 0) return;
  if (with.acquire_fence) fence_device();
  if (t != 0) return;
  int32_t total = 0;
  for (int i = 0; i < blocks * n; ++i) total += ld_l2_s32(parts + i);
  *sum = total;
  *counter = 0;
}

TEST_P(KernelFaultsTest, TheLastBlockNeedsFencesAndABarrier) {
  const auto run = [&](LastBlock with) {
    const DeviceArray<int32_t> counter(std::vector<int32_t>{0}), sum(1);
    Run(SumInLastBlock, {.grid = 4, .block = 64, .shared_bytes = 4}, data_.data(), counter.data(),
        sum.data(), with);
    return sum.ToHost()[0];
  };
  EXPECT_EQ(run({}), 4 * 2016);
  EXPECT_TRUE(report_.findings().empty()) << report_.ToString();
  for (const LastBlock& with : {LastBlock{.release_fence = false}, LastBlock{.barrier = false},
                                LastBlock{.acquire_fence = false}}) {
    report_.Clear();
    run(with);
    EXPECT_TRUE(report_.Has(Violation::kGlobalRace))
        << with.release_fence << with.barrier << with.acquire_fence;
  }
}

// --- bounds and alignment ---

__global__ void Write(int32_t* data, int i) { data[i] = 1; }
__global__ void WriteByte(uint8_t* data, int i) { data[i] = 1; }
__global__ void WriteShared(int i) { SharedInts()[i] = 1; }
__global__ void LoadVector(const int32_t* data, int i, int32_t* out) {
  const uint4 v = *reinterpret_cast<const uint4*>(data + i);
  *out = static_cast<int32_t>(v.w);
}

TEST_P(KernelFaultsTest, OneBytePastAnAllocationIsOutOfBounds) {
  const DeviceArray<uint8_t> odd(5);
  EXPECT_EQ(Run(WriteByte, {.grid = 1, .block = 1}, odd.data(), 4), cudaSuccess);
  EXPECT_EQ(Run(WriteByte, {.grid = 1, .block = 1}, odd.data(), 5), cudaErrorIllegalAddress);
  EXPECT_TRUE(report_.Has(Violation::kOutOfBounds)) << report_.ToString();
}

TEST_P(KernelFaultsTest, BeforeAnAllocationIsOutOfBounds) {
  EXPECT_EQ(Run(Write, {.grid = 1, .block = 1}, data_.data(), 1023), cudaSuccess);
  EXPECT_EQ(Run(Write, {.grid = 1, .block = 1}, data_.data(), -1), cudaErrorIllegalAddress);
  EXPECT_TRUE(report_.Has(Violation::kOutOfBounds));
}

TEST_P(KernelFaultsTest, PastSharedMemoryIsOutOfBounds) {
  EXPECT_EQ(Run(WriteShared, {.grid = 1, .block = 1, .shared_bytes = 64}, 15), cudaSuccess);
  EXPECT_EQ(Run(WriteShared, {.grid = 1, .block = 1, .shared_bytes = 64}, 16),
            cudaErrorIllegalAddress);
  EXPECT_TRUE(report_.Has(Violation::kOutOfBounds));
}

TEST_P(KernelFaultsTest, VectorsMustBeAligned) {
  const DeviceArray<int32_t> out(1);
  EXPECT_EQ(Run(LoadVector, {.grid = 1, .block = 1}, data_.data(), 8, out.data()), cudaSuccess);
  EXPECT_EQ(Run(LoadVector, {.grid = 1, .block = 1}, data_.data(), 2, out.data()),
            cudaErrorMisalignedAddress);
  EXPECT_TRUE(report_.Has(Violation::kMisaligned));
  EXPECT_NE(report_.ToString().find("kernel_faults_test.cc"), std::string::npos);
}

TEST_P(KernelFaultsTest, FreedMemoryIsNamed) {
  int32_t* freed = nullptr;
  ASSERT_EQ(cudaMalloc(&freed, 64), cudaSuccess);
  EXPECT_EQ(Run(Write, {.grid = 1, .block = 1}, freed, 3), cudaSuccess);
  ASSERT_EQ(cudaFree(freed), cudaSuccess);
  EXPECT_EQ(Run(Write, {.grid = 1, .block = 1}, freed, 3), cudaErrorIllegalAddress);
  EXPECT_TRUE(report_.Has(Violation::kUseAfterFree));
}

TEST_P(KernelFaultsTest, HostMemoryIsNotTheKernels) {
  const auto host = std::make_unique<int32_t[]>(4);
  EXPECT_EQ(Run(Write, {.grid = 1, .block = 1}, host.get(), 0), cudaErrorIllegalAddress);
  EXPECT_TRUE(report_.Has(Violation::kHostMemory));
  EXPECT_EQ(host[0], 0);
}

TEST_P(KernelFaultsTest, ErrorsStickUntilTheDeviceIsReset) {
  EXPECT_EQ(Run(Write, {.grid = 1, .block = 1}, data_.data(), 5000), cudaErrorIllegalAddress);
  void* more = nullptr;
  EXPECT_EQ(cudaMalloc(&more, 16), cudaErrorIllegalAddress);
  EXPECT_EQ(cudaPeekAtLastError(), cudaErrorIllegalAddress);
  EXPECT_EQ(cudaGetLastError(), cudaErrorIllegalAddress);
  EXPECT_EQ(cudaGetLastError(), cudaErrorIllegalAddress);
  cudaDeviceReset();
  EXPECT_EQ(cudaGetLastError(), cudaSuccess);
}

// --- divergence ---

__global__ void ReturnBeforeBarrier(int32_t* out, int early) {
  const int t = ThreadId();
  if (t < early) return;
  sync_block();
  out[t] = t;
}

TEST_P(KernelFaultsTest, ABarrierThatSomeThreadsNeverReach) {
  EXPECT_EQ(Run(ReturnBeforeBarrier, {.grid = 1, .block = 64}, data_.data(), 0), cudaSuccess);
  EXPECT_TRUE(report_.findings().empty()) << report_.ToString();
  EXPECT_EQ(Run(ReturnBeforeBarrier, {.grid = 1, .block = 64}, data_.data(), 32),
            cudaErrorLaunchFailure);
  EXPECT_TRUE(report_.Has(Violation::kDivergence));
}

__global__ void TwoBarriers(int32_t* out, int border) {
  const int t = ThreadId();
  if (t < border) {
    out[t] = 1;
    sync_block();
    out[t] = 2;
  } else {
    out[t] = 3;
    sync_block();
    out[t] = 4;
  }
}

TEST_P(KernelFaultsTest, ThreadsThatWaitAtDifferentBarriers) {
  EXPECT_EQ(Run(TwoBarriers, {.grid = 1, .block = 64}, data_.data(), 64), cudaSuccess);
  EXPECT_TRUE(report_.findings().empty()) << report_.ToString();
  EXPECT_NE(Run(TwoBarriers, {.grid = 1, .block = 64}, data_.data(), 32), cudaSuccess);
  EXPECT_TRUE(report_.Has(Violation::kDivergence));
}

__global__ void ShuffleOfSome(int32_t* out, int active) {
  const int t = ThreadId();
  if (t < active) out[t] = shfl_s32(t, 0);
}

TEST_P(KernelFaultsTest, AShuffleWithInactiveLanes) {
  EXPECT_EQ(Run(ShuffleOfSome, {.grid = 1, .block = 64}, data_.data(), 32), cudaSuccess);
  EXPECT_TRUE(report_.findings().empty()) << report_.ToString();
  EXPECT_NE(Run(ShuffleOfSome, {.grid = 1, .block = 64}, data_.data(), 48), cudaSuccess);
  EXPECT_TRUE(report_.Has(Violation::kDivergence));
}

TEST_P(KernelFaultsTest, AShuffleInAWarpThatIsNotWhole) {
  EXPECT_NE(Run(ShuffleOfSome, {.grid = 1, .block = 24}, data_.data(), 24), cudaSuccess);
  EXPECT_TRUE(report_.Has(Violation::kDivergence));
}

__global__ void MixedCollectives(int32_t* out, bool mixed) {
  const int t = ThreadId();
  if (mixed && t % 2 == 0) {
    out[t] = static_cast<int32_t>(ballot(true));
  } else {
    out[t] = shfl_s32(t, 0);
  }
}

TEST_P(KernelFaultsTest, LanesInDifferentCollectives) {
  EXPECT_EQ(Run(MixedCollectives, {.grid = 1, .block = 32}, data_.data(), false), cudaSuccess);
  EXPECT_NE(Run(MixedCollectives, {.grid = 1, .block = 32}, data_.data(), true), cudaSuccess);
  EXPECT_TRUE(report_.Has(Violation::kDivergence));
}

// --- cp.async ---

struct AsyncSteps {
  bool commit = true;
  bool wait = true;
  bool barrier = true;
};

__global__ void CopyAsync(const int32_t* in, int32_t* out, AsyncSteps steps) {
  const int t = ThreadId(), n = static_cast<int>(blockDim.x);
  cp_async_16(SharedInts() + 4 * t, in + 4 * t);
  if (steps.commit) cp_async_commit();
  if (steps.wait) cp_async_wait<0>();
  if (steps.barrier) sync_block();
  out[t] = SharedInts()[4 * ((t + 1) % n)];
}

TEST_P(KernelFaultsTest, CpAsyncNeedsCommitWaitAndBarrier) {
  const DeviceArray<int32_t> out(64);
  const LaunchShape shape = {.grid = 1, .block = 64, .shared_bytes = 1024};
  EXPECT_EQ(Run(CopyAsync, shape, data_.data(), out.data(), AsyncSteps{}), cudaSuccess);
  EXPECT_TRUE(report_.findings().empty()) << report_.ToString();
  Run(CopyAsync, shape, data_.data(), out.data(), AsyncSteps{.barrier = false});
  EXPECT_FALSE(report_.findings().empty());  // a race, or not even delivered
  cudaDeviceReset();
  const DeviceArray<int32_t> in(std::vector<int32_t>(256)), again(64);
  EXPECT_NE(Run(CopyAsync, shape, in.data(), again.data(), AsyncSteps{.commit = false}),
            cudaSuccess);
  EXPECT_TRUE(report_.Has(Violation::kAsyncCopy));
}

TEST_P(KernelFaultsTest, CpAsyncWithoutAWaitIsNotDelivered) {
  const DeviceArray<int32_t> out(64);
  EXPECT_NE(Run(CopyAsync, {.grid = 1, .block = 64, .shared_bytes = 1024}, data_.data(), out.data(),
                AsyncSteps{.wait = false}),
            cudaSuccess);
  EXPECT_TRUE(report_.Has(Violation::kAsyncCopy));
}

// The classic slip of a pipeline: a stage is fetched again while other warps still read it.
__global__ void Pipeline(const int32_t* in, int32_t* out, bool barrier) {
  const int t = ThreadId(), n = static_cast<int>(blockDim.x);
  int32_t sum = 0;
  for (int round = 0; round < 2; ++round) {
    cp_async_16(SharedInts() + 4 * t, in + 4 * t);
    cp_async_commit();
    cp_async_wait<0>();
    sync_block();
    sum += SharedInts()[4 * ((t + 32) % n)];
    if (barrier) sync_block();
  }
  out[t] = sum;
}

TEST_P(KernelFaultsTest, FetchingAStageThatOthersStillReadIsARace) {
  const DeviceArray<int32_t> out(64);
  const LaunchShape shape = {.grid = 1, .block = 64, .shared_bytes = 1024};
  Run(Pipeline, shape, data_.data(), out.data(), true);
  EXPECT_TRUE(report_.findings().empty()) << report_.ToString();
  Run(Pipeline, shape, data_.data(), out.data(), false);
  EXPECT_TRUE(report_.Has(Violation::kSharedRace));
}

// The words of one copy may have been touched in different ways before it.
__global__ void CopyOverStores(const int32_t* in, int32_t* out) {
  const int t = ThreadId();
  SharedInts()[4 * (t ^ 1) + 2] = t;
  sync_warp();
  cp_async_16(SharedInts() + 4 * t, in + 4 * t);
  cp_async_commit();
  cp_async_wait<0>();
  out[t] = SharedInts()[4 * t + 2];
}

TEST_P(KernelFaultsTest, ACopyOverStoresThatAreOrderedIsFine) {
  const DeviceArray<int32_t> out(64);
  Run(CopyOverStores, {.grid = 1, .block = 64, .shared_bytes = 1024}, data_.data(), out.data());
  EXPECT_TRUE(report_.findings().empty()) << report_.ToString();
}

// --- instructions that take only some addresses ---

__global__ void LdmatrixFrom(const int32_t* global, int32_t* out, bool shared) {
  uint32_t r[4];
  const int t = ThreadId();
  for (int i = t; i < 128; i += 32) SharedInts()[i] = i;
  sync_warp();
  ldmatrix_x4(r, (shared ? SharedInts() : global) + 4 * t);
  out[t] = static_cast<int32_t>(r[0] + r[3]);
}

TEST_P(KernelFaultsTest, LdmatrixReadsSharedMemoryOnly) {
  const DeviceArray<int32_t> out(32);
  const LaunchShape shape = {.grid = 1, .block = 32, .shared_bytes = 512};
  EXPECT_EQ(Run(LdmatrixFrom, shape, data_.data(), out.data(), true), cudaSuccess);
  EXPECT_TRUE(report_.findings().empty()) << report_.ToString();
  EXPECT_NE(Run(LdmatrixFrom, shape, data_.data(), out.data(), false), cudaSuccess);
  EXPECT_TRUE(report_.Has(Violation::kInvalidArgument));
}

// Lanes get parts of rows that other lanes stored.
__global__ void LdmatrixOf(int32_t* out, bool sync) {
  uint32_t r[4];
  const int t = ThreadId();
  for (int i = 0; i < 4; ++i) SharedInts()[4 * t + i] = t;
  if (sync) sync_warp();
  ldmatrix_x4(r, SharedInts() + 4 * t);
  out[t] = static_cast<int32_t>(r[0] + r[3]);
}

TEST_P(KernelFaultsTest, LdmatrixNeedsSyncWarpAfterTheStores) {
  const LaunchShape shape = {.grid = 1, .block = 32, .shared_bytes = 512};
  EXPECT_EQ(Run(LdmatrixOf, shape, data_.data(), true), cudaSuccess);
  EXPECT_TRUE(report_.findings().empty()) << report_.ToString();
  EXPECT_EQ(Run(LdmatrixOf, shape, data_.data(), false), cudaSuccess);
  EXPECT_TRUE(report_.Has(Violation::kSharedRace));
}

__global__ void StreamBack(int32_t* data, int32_t* out, bool own) {
  const int t = ThreadId();
  if (own) data[4 * t] = t;
  sync_block();
  out[t] = static_cast<int32_t>(ld_stream(data + 4 * t).x);
}

TEST_P(KernelFaultsTest, LdStreamIsForWhatTheLaunchDoesNotWrite) {
  const DeviceArray<int32_t> out(64);
  const LaunchShape shape = {.grid = 1, .block = 64};
  EXPECT_EQ(Run(StreamBack, shape, data_.data(), out.data(), false), cudaSuccess);
  EXPECT_TRUE(report_.findings().empty()) << report_.ToString();
  EXPECT_EQ(Run(StreamBack, shape, data_.data(), out.data(), true), cudaSuccess);
  EXPECT_TRUE(report_.Has(Violation::kGlobalRace));
}

__global__ void AddShared() { red_add_s32(SharedInts(), 1); }

TEST_P(KernelFaultsTest, AtomicsAreForGlobalMemory) {
  EXPECT_NE(Run(AddShared, {.grid = 1, .block = 32, .shared_bytes = 4}), cudaSuccess);
  EXPECT_TRUE(report_.Has(Violation::kInvalidArgument));
}

// --- memory that nobody wrote ---

__global__ void CopyOne(const int32_t* in, int32_t* out) { *out = *in; }

TEST(UninitialisedTest, FreshDeviceMemoryIsPoisonAndReportedWhenAsked) {
  Report report;
  const DeviceArray<int32_t> in(4), out(1);
  Launch("CopyOne", CopyOne, {.grid = 1, .block = 1}, in.data(), out.data());
  EXPECT_EQ(out.ToHost()[0], -1);
  EXPECT_TRUE(report.findings().empty()) << report.ToString();
  const emu::ScopedOptions options({.uninitialised = true});
  Launch("CopyOne", CopyOne, {.grid = 1, .block = 1}, in.data(), out.data());
  EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  EXPECT_TRUE(report.Has(Violation::kUninitialised));
}

__global__ void CopyShared(int32_t* out, bool fill) {
  if (fill) SharedInts()[0] = 7;
  *out = SharedInts()[0];
}

TEST(UninitialisedTest, SharedMemoryStartsAsPoisonInEveryBlock) {
  Report report;
  const emu::ScopedOptions options({.uninitialised = true});
  const DeviceArray<int32_t> out(1);
  Launch("CopyShared", CopyShared, {.grid = 1, .block = 1, .shared_bytes = 4}, out.data(), true);
  EXPECT_EQ(out.ToHost()[0], 7);
  EXPECT_TRUE(report.findings().empty()) << report.ToString();
  Launch("CopyShared", CopyShared, {.grid = 1, .block = 1, .shared_bytes = 4}, out.data(), false);
  EXPECT_EQ(out.ToHost()[0], -1);
  EXPECT_TRUE(report.Has(Violation::kUninitialised));
}

}  // namespace
}  // namespace intermix::cuda
