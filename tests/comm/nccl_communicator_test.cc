// NcclCommunicator between emulated GPUs: threads of this process, or with a number of ranks as
// argument the processes of an mpirun. The watchdog speaks when a rank stays away or NCCL fails.
#include "comm/nccl_communicator.h"

#include <cstdlib>
#include <future>

#include "comm/mpi_communicator.h"
#include "gtest/gtest.h"
#include "kernels/cuda/cuda_backend.h"
#include "tests/emulator/emulator.h"
#include "tests/emulator/fake_nccl.h"
#include "tests/testing/communicator_checks.h"
#include "tests/testing/on_device.h"
#include "tests/testing/run_ranks.h"

namespace intermix {
namespace {

using std::chrono::milliseconds;

// A rank with its GPU and its communicator for that GPU's memory.
struct Gpu {
  explicit Gpu(std::unique_ptr<Communicator> control, milliseconds limit = milliseconds(0))
      : backend(*MakeCudaBackend({.device = control->rank(), .rank = control->rank()})),
        watchdog({.who = "rank " + std::to_string(control->rank()),
                  .limit = limit,
                  .poll = milliseconds(10)}) {
    absl::StatusOr<std::unique_ptr<Communicator>> made = MakeNcclCommunicator(
        {.stream = CudaStreamOf(*backend), .watchdog = watchdog}, std::move(control));
    EXPECT_TRUE(made.ok()) << made.status();
    comm = *std::move(made);
  }
  std::unique_ptr<Backend> backend;
  Watchdog watchdog;
  std::unique_ptr<Communicator> comm;
};

class NcclCommunicatorTest : public testing::Test {
 protected:
  NcclCommunicatorTest() { emu::SetOptions({.devices = 4}); }
};
using NcclCommunicatorDeathTest = NcclCommunicatorTest;

void CheckGpu(std::unique_ptr<Communicator> control) {
  Gpu gpu(std::move(control));
  OnDevice world(*gpu.backend, std::move(gpu.comm));
  CheckCollectives(world);
}

TEST_F(NcclCommunicatorTest, DoesEveryCollectiveOnAnyNumberOfRanks) {
  for (int size : {1, 2, 3, 4}) RunRanks(size, CheckGpu);
}

TEST_F(NcclCommunicatorTest, LeavesNvlinkMulticastOffUnlessAsked) {
  unsetenv("NCCL_NVLS_ENABLE");
  RunRanks(2, CheckGpu);
  EXPECT_STREQ(getenv("NCCL_NVLS_ENABLE"), "0");
  setenv("NCCL_NVLS_ENABLE", "1", 1);
  RunRanks(2, CheckGpu);
  EXPECT_STREQ(getenv("NCCL_NVLS_ENABLE"), "1");
}

// An exchange of two words between two ranks, started behind work on its input; then work on its
// output, and on words that are none of its own. Whether the device waits in between is `wait`.
void WorkBesideAnExchange(std::unique_ptr<Communicator> control, bool wait) {
  Gpu gpu(std::move(control));
  Backend& backend = *gpu.backend;
  const Buffer memory = backend.Allocate(4096);
  const auto words = [&](int i) {
    return memory.View(DType::kF32, {2, 1}, 256 * static_cast<size_t>(i));
  };
  const Buffer index = backend.Allocate(8);  // zeros: both rows are row 0
  const Tensor twice_first = index.View(DType::kI32, {2});
  const std::vector<float> mine = {10.0f + static_cast<float>(gpu.comm->rank()), -1.0f};
  backend.CopyToDevice(mine.data(), words(0));
  backend.GatherRows(words(0), twice_first, words(1));
  const std::vector<int64_t> bytes = {4, 4};
  const int64_t exchange = gpu.comm->StartAllToAll(words(1).raw(), bytes, words(2).raw(), bytes);
  backend.GatherRows(words(0), twice_first, words(3));
  if (wait) gpu.comm->WaitForAllToAll(exchange);
  backend.GatherRows(words(2), twice_first, words(4));
  gpu.comm->WaitForAllToAll(exchange);
  std::vector<float> exchanged(2);
  backend.CopyToHost(words(2), exchanged.data());
  EXPECT_EQ(exchanged, (std::vector<float>{10.0f, 11.0f}));
  backend.CopyToHost(words(4), exchanged.data());
  EXPECT_TRUE(!wait || exchanged == (std::vector<float>{10.0f, 10.0f}));
}

TEST_F(NcclCommunicatorTest, AStartedExchangeRunsBesideOtherWork) {
  for (const emu::Order order : {emu::Order::kForward, emu::Order::kSeeded}) {
    for (uint64_t seed = 0; seed < 8; ++seed) {
      emu::SetOptions({.seed = seed, .order = order, .devices = 2});
      RunRanks(2,
               [](std::unique_ptr<Communicator> c) { WorkBesideAnExchange(std::move(c), true); });
    }
  }
}

TEST_F(NcclCommunicatorTest, AMissingWaitIsSeen) {
  emu::SetOptions({.devices = 2});
  emu::Report report;
  RunRanks(2, [](std::unique_ptr<Communicator> c) { WorkBesideAnExchange(std::move(c), false); });
  EXPECT_TRUE(report.Has(emu::Violation::kGlobalRace)) << report.ToString();
}

void CallBesideAnExchange() {
  RunRanks(2, [](std::unique_ptr<Communicator> control) {
    Gpu gpu(std::move(control));
    const Buffer data = gpu.backend->Allocate(64);
    const std::vector<int64_t> bytes = {4, 4};
    gpu.comm->StartAllToAll(data.data(), bytes, static_cast<char*>(data.data()) + 32, bytes);
    gpu.comm->Merge(data.data(), 1);
  });
}

TEST_F(NcclCommunicatorDeathTest, ACollectiveBesideAnExchangeIsRefused) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_DEATH(CallBesideAnExchange(), "before StartAllToAll's was waited for");
}

// The watchdog ends the process meanwhile; if it does not, the test goes on and fails.
void WaitForTheEnd() { std::promise<void>().get_future().wait_for(std::chrono::seconds(60)); }

// Rank 1 stays away from a collective that rank 0 waits for.
void StayAway() {
  RunRanks(2, [](std::unique_ptr<Communicator> control) {
    Gpu gpu(std::move(control), milliseconds(200));
    if (gpu.comm->rank() == 0) {
      const Buffer data = gpu.backend->Allocate(4);
      gpu.comm->AllReduceMax(static_cast<float*>(data.data()), 1);  // does not wait
      const Watchdog::Work work(gpu.watchdog, "step 7");            // it is begun by then
      gpu.backend->Synchronize();
    }
    WaitForTheEnd();
  });
}

void Break() {
  RunRanks(2, [](std::unique_ptr<Communicator> control) {
    Gpu gpu(std::move(control));
    if (gpu.comm->rank() == 1) emu::BreakNccl(ncclRemoteError);
    gpu.comm->Barrier();
    WaitForTheEnd();
  });
}

TEST_F(NcclCommunicatorDeathTest, ARankWhosePeerStaysAwayEndsWithASentence) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_DEATH(
      StayAway(),
      "rank [01]: step 7 has not ended.*fatal: rank [01]: step 7 has not ended after 200 ms: "
      "another rank is gone or stuck; last begun: NCCL ");
  EXPECT_DEATH(Break(), "fatal: rank [01]: NCCL among 2 ranks: remote process exited");
}

int ranks_of_mpirun = 0;

TEST_F(NcclCommunicatorTest, BetweenProcesses) {
  if (ranks_of_mpirun == 0) GTEST_SKIP() << "needs mpirun; ctest has tests of that";
  MpiSession session;
  std::unique_ptr<Communicator> world = session.World();
  EXPECT_EQ(world->size(), ranks_of_mpirun);
  CheckGpu(std::move(world));
}

}  // namespace
}  // namespace intermix

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  if (argc > 1) intermix::ranks_of_mpirun = std::atoi(argv[1]);
  return RUN_ALL_TESTS();
}
