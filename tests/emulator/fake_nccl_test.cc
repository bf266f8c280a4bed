// The fake NCCL between threads: results, order on the stream, and mistakes that are told, not
// hung.
#include "tests/emulator/fake_nccl.h"

#include <functional>
#include <thread>
#include <vector>

#include "tests/emulator/testing.h"

namespace emu {
namespace {

// One rank: its own device, a stream, and its place among the others.
struct RankContext {
  int rank;
  ncclComm_t comm;
  cudaStream_t stream;
};

void RunRanks(int size, const std::function<void(const RankContext&)>& body) {
  ncclUniqueId id;
  ASSERT_EQ(ncclGetUniqueId(&id), ncclSuccess);
  std::vector<std::jthread> threads;
  for (int rank = 0; rank < size; ++rank) {
    threads.emplace_back([&body, size, rank, id] {
      ASSERT_EQ(cudaSetDevice(rank), cudaSuccess);
      RankContext context = {.rank = rank};
      ASSERT_EQ(ncclCommInitRank(&context.comm, size, id, rank), ncclSuccess);
      ASSERT_EQ(cudaStreamCreate(&context.stream), cudaSuccess);
      body(context);
      ASSERT_EQ(cudaStreamSynchronize(context.stream), cudaSuccess);
      ASSERT_EQ(ncclCommDestroy(context.comm), ncclSuccess);
    });
  }
}

class FakeNcclTest : public testing::Test {
 protected:
  ScopedOptions options_{Options{.devices = 4}};
};
using FakeNcclDeathTest = FakeNcclTest;

TEST_F(FakeNcclTest, CollectivesGiveWhatNcclGives) {
  RunRanks(3, [](const RankContext& me) {
    const uint32_t r = static_cast<uint32_t>(me.rank);
    const DeviceArray<uint32_t> in(std::vector<uint32_t>{r, 10 + r, 20 + r});
    const DeviceArray<uint32_t> sum(3), all(9), one(1);
    const DeviceArray<float> peak(std::vector<float>{-1.0f * me.rank, 1.0f * me.rank});
    const DeviceArray<uint32_t> sent(std::vector<uint32_t>{100 + r});
    ncclAllReduce(in.data(), sum.data(), 3, ncclUint32, ncclSum, me.comm, me.stream);
    ncclAllGather(in.data(), all.data(), 3, ncclUint32, me.comm, me.stream);
    ncclReduceScatter(in.data(), one.data(), 1, ncclUint32, ncclSum, me.comm, me.stream);
    ncclAllReduce(peak.data(), peak.data(), 2, ncclFloat32, ncclMax, me.comm, me.stream);
    ncclBroadcast(sent.data(), sent.data(), 1, ncclUint32, 2, me.comm, me.stream);
    ASSERT_EQ(cudaStreamSynchronize(me.stream), cudaSuccess);
    EXPECT_EQ(sum.ToHost(), (std::vector<uint32_t>{3, 33, 63}));
    EXPECT_EQ(all.ToHost(), (std::vector<uint32_t>{0, 10, 20, 1, 11, 21, 2, 12, 22}));
    EXPECT_EQ(one.ToHost(), std::vector<uint32_t>{r * 30 + 3});
    EXPECT_EQ(peak.ToHost(), (std::vector<float>{0.0f, 2.0f}));
    EXPECT_EQ(sent.ToHost(), std::vector<uint32_t>{102});
  });
}

TEST_F(FakeNcclTest, GroupedSendsAndReceivesDoNotWaitForEachOther) {
  RunRanks(4, [](const RankContext& me) {
    const int next = (me.rank + 1) % 4;
    const int last = (me.rank + 3) % 4;
    const DeviceArray<int32_t> out(std::vector<int32_t>{me.rank});
    const DeviceArray<int32_t> in(1);
    ncclGroupStart();
    ncclRecv(in.data(), 1, ncclInt32, last, me.comm, me.stream);
    ncclSend(out.data(), 1, ncclInt32, next, me.comm, me.stream);
    ncclGroupEnd();
    ASSERT_EQ(cudaStreamSynchronize(me.stream), cudaSuccess);
    EXPECT_EQ(in.ToHost(), std::vector<int32_t>{last});
  });
}

TEST_F(FakeNcclTest, SplitGroupsWorkOnTheirOwn) {
  RunRanks(4, [](const RankContext& me) {
    ncclComm_t half = nullptr;
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    const int color = me.rank == 3 ? NCCL_SPLIT_NOCOLOR : me.rank % 2;
    ASSERT_EQ(ncclCommSplit(me.comm, color, -me.rank, &half, &config), ncclSuccess);
    EXPECT_EQ(half == nullptr, me.rank == 3);
    if (me.rank % 2 == 1) return;
    const DeviceArray<int32_t> mine(std::vector<int32_t>{me.rank});
    const DeviceArray<int32_t> both(2);
    ncclAllGather(mine.data(), both.data(), 1, ncclInt32, half, me.stream);
    ASSERT_EQ(cudaStreamSynchronize(me.stream), cudaSuccess);
    EXPECT_EQ(both.ToHost(), (std::vector<int32_t>{2, 0}));  // by key
    ncclCommDestroy(half);
  });
}

TEST_F(FakeNcclTest, AbortEndsAnOperationThatNobodyJoins) {
  RunRanks(2, [](const RankContext& me) {
    if (me.rank == 1) return;
    const DeviceArray<float> data(1);
    ncclAllReduce(data.data(), data.data(), 1, ncclFloat32, ncclMax, me.comm, me.stream);
    std::jthread abort([&me] { ncclCommAbort(me.comm); });
    EXPECT_EQ(cudaStreamSynchronize(me.stream), cudaSuccess);
  });
}

TEST_F(FakeNcclTest, AnAsynchronousErrorShowsOnEveryCommunicator) {
  RunRanks(1, [](const RankContext& me) {
    ncclResult_t error = ncclInternalError;
    EXPECT_EQ(ncclCommGetAsyncError(me.comm, &error), ncclSuccess);
    EXPECT_EQ(error, ncclSuccess);
    BreakNccl(ncclRemoteError);
    EXPECT_EQ(ncclCommGetAsyncError(me.comm, &error), ncclSuccess);
    EXPECT_EQ(error, ncclRemoteError);
    BreakNccl(ncclSuccess);
  });
}

// Two ranks call what `call` says for each and wait.
void Mismatch(const std::function<void(const RankContext&, float*)>& call) {
  RunRanks(2, [&](const RankContext& me) {
    const DeviceArray<float> data(8);
    call(me, data.data());
    cudaStreamSynchronize(me.stream);
  });
}

TEST_F(FakeNcclDeathTest, MismatchedCallsAreToldNotHung) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_DEATH(Mismatch([](const RankContext& me, float* data) {
                 const size_t count = me.rank == 0 ? 1 : 2;
                 ncclAllReduce(data, data, count, ncclFloat32, ncclMax, me.comm, me.stream);
               }),
               "is in an all-reduce .* of [12] elements.* but rank");
  EXPECT_DEATH(Mismatch([](const RankContext& me, float* data) {
                 if (me.rank == 0) ncclBroadcast(data, data, 4, ncclInt8, 0, me.comm, me.stream);
                 if (me.rank == 1) {
                   ncclAllReduce(data, data, 4, ncclFloat32, ncclMax, me.comm, me.stream);
                 }
               }),
               "is in (a broadcast|an all-reduce) .* but rank");
  EXPECT_DEATH(Mismatch([](const RankContext& me, float* data) {
                 if (me.rank == 0) ncclSend(data, 3, ncclInt8, 1, me.comm, me.stream);
                 if (me.rank == 1) ncclRecv(data, 4, ncclInt8, 0, me.comm, me.stream);
               }),
               "rank 1 of 2 is in a send of 4 .* but rank 0 of 2 is in a send of 3");
}

TEST_F(FakeNcclDeathTest, HostMemoryIsRefused) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_DEATH(RunRanks(1,
                        [](const RankContext& me) {
                          float host = 0;
                          ncclAllReduce(&host, &host, 1, ncclFloat32, ncclMax, me.comm, me.stream);
                        }),
               "not memory of the device");
}

}  // namespace
}  // namespace emu
