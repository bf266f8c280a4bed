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

// The watchdog ends the process meanwhile; if it does not, the test goes on and fails.
void WaitForTheEnd() { std::promise<void>().get_future().wait_for(std::chrono::seconds(60)); }

// Rank 1 stays away from a collective that rank 0 waits for.
void StayAway() {
  RunRanks(2, [](std::unique_ptr<Communicator> control) {
    Gpu gpu(std::move(control), milliseconds(200));
    const Watchdog::Work work(gpu.watchdog, "step 7");
    if (gpu.comm->rank() == 0) {
      const Buffer data = gpu.backend->Allocate(4);
      gpu.comm->AllReduceMax(static_cast<float*>(data.data()), 1);
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
  EXPECT_DEATH(StayAway(), "fatal: rank [01]: step 7 has not ended after 200 ms: another rank");
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
