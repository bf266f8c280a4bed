// Self and thread communicators, and the start-up agreement that is built on them.
#include "comm/communicator.h"

#include <array>

#include "absl/strings/str_cat.h"
#include "comm/agreement.h"
#include "comm/self_communicator.h"
#include "comm/thread_communicator.h"
#include "gtest/gtest.h"
#include "tests/testing/communicator_checks.h"
#include "tests/testing/run_ranks.h"

namespace intermix {
namespace {

TEST(SelfCommunicatorTest, DoesEveryCollective) { CheckCollectives(*MakeSelfCommunicator()); }

TEST(ThreadCommunicatorTest, DoesEveryCollectiveOnAnyNumberOfRanks) {
  for (int size : {1, 2, 3, 4, 7}) {
    RunRanks(size, [](std::unique_ptr<Communicator> world) { CheckCollectives(*world); });
  }
}

TEST(ThreadCommunicatorDeathTest, MismatchedCollectivesAreReportedNotHung) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const auto mismatch = [] {
    RunRanks(2, [](std::unique_ptr<Communicator> world) {
      std::array<float, 2> data{};
      if (world->rank() == 0) world->Barrier();
      if (world->rank() == 1) world->AllReduceMax(data.data(), 2);
    });
  };
  EXPECT_DEATH(mismatch(), "ranks called different collectives");
}

TEST(AgreeOnStatusTest, AllRanksGetTheLowestFailingRanksMessage) {
  RunRanks(4, [](std::unique_ptr<Communicator> world) {
    EXPECT_TRUE(AgreeOnStatus(*world, absl::OkStatus()).ok());
    const bool bad = world->rank() == 1 || world->rank() == 3;
    const absl::Status mine =
        bad ? absl::NotFoundError(absl::StrCat("file of ", world->rank())) : absl::OkStatus();
    EXPECT_EQ(AgreeOnStatus(*world, mine), absl::NotFoundError("rank 1: file of 1"));
    const absl::Status same = absl::InvalidArgumentError("--tp 3 does not divide");
    EXPECT_EQ(AgreeOnStatus(*world, same), same);
  });
}

TEST(GatherTextsTest, GivesEveryRanksTextToAll) {
  RunRanks(3, [](std::unique_ptr<Communicator> world) {
    const std::string mine(1000 * world->rank(), static_cast<char>('a' + world->rank()));
    EXPECT_EQ(GatherTexts(*world, mine),
              (std::vector<std::string>{"", std::string(1000, 'b'), std::string(2000, 'c')}));
  });
}

TEST(AgreeThatTest, OneNoIsEverybodysNo) {
  RunRanks(3, [](std::unique_ptr<Communicator> world) {
    EXPECT_TRUE(AgreeThat(*world, true));
    EXPECT_FALSE(AgreeThat(*world, world->rank() != 1));
    EXPECT_FALSE(AgreeThat(*world, false));
  });
}

}  // namespace
}  // namespace intermix
