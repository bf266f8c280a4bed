// MpiCommunicator; ctest starts this under mpirun with several numbers of ranks, and once without.
#include "comm/mpi_communicator.h"

#include "gtest/gtest.h"
#include "tests/testing/communicator_checks.h"

namespace intermix {
namespace {

std::unique_ptr<Communicator> world;
int expected_size = 1;
int ranks_per_host = 0;

TEST(MpiCommunicatorTest, HasTheSizeThatMpirunGave) { EXPECT_EQ(world->size(), expected_size); }

TEST(MpiCommunicatorTest, KnowsThatAllRanksAreOnOneHost) {
  EXPECT_EQ(ranks_per_host, expected_size);
}

TEST(MpiCommunicatorTest, DoesEveryCollective) { CheckCollectives(*world); }

}  // namespace
}  // namespace intermix

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  intermix::MpiSession session;
  intermix::world = session.World();
  intermix::ranks_per_host = session.ranks_per_host();
  if (argc > 1) intermix::expected_size = std::atoi(argv[1]);
  const int result = RUN_ALL_TESTS();
  intermix::world.reset();
  return result;
}
