// A rank of `mpirun -n 2 intermix serve` that dies or stops under load: what clients and operators
// get to know, and that nothing is left behind.
#include <csignal>
#include <cstdlib>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/served_model.h"

namespace intermix {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::SizeIs;

// Streams of a Served::Endless that have all brought something and do not end by themselves.
class Load {
 public:
  Load(v1::Inference::Stub& stub, int num_streams) {
    for (int i = 0; i < num_streams; ++i) {
      auto stream = std::make_unique<Stream>();
      stream->context.set_deadline(Soon());
      v1::GenerateRequest request;
      request.set_text("And it came to pass in those days " + std::to_string(i));
      request.mutable_sampling()->set_max_tokens(kEndless);
      request.mutable_sampling()->set_ignore_eos(true);
      stream->reader = stub.Generate(&stream->context, request);
      streams_.push_back(std::move(stream));
    }
    v1::GenerateResponse response;
    for (const auto& stream : streams_) EXPECT_TRUE(stream->reader->Read(&response));
  }

  // How each one ends.
  std::vector<grpc::Status> Ends() {
    std::vector<grpc::Status> ends;
    v1::GenerateResponse response;
    for (const auto& stream : streams_) {
      while (stream->reader->Read(&response)) {
      }
      ends.push_back(stream->reader->Finish());
    }
    return ends;
  }

 private:
  struct Stream {
    grpc::ClientContext context;
    std::unique_ptr<grpc::ClientReader<v1::GenerateResponse>> reader;
  };
  std::vector<std::unique_ptr<Stream>> streams_;
};

constexpr int kStreams = 8;

// The job ends with an error, and no process of it is left that could hold its port.
void ExpectNothingIsLeft(Served& served) {
  EXPECT_NE(served.job().Wait(), 0);
  EXPECT_TRUE(served.Gone());
}

void Signal(const v1::Rank& rank, int signal) {
  kill(static_cast<pid_t>(rank.info().pid()), signal);
}

TEST(LostRankTest, ARankThatDiesIsNamedInEveryStreamAndEndsTheJob) {
  // Open MPI kills the other ranks when twice these seconds have passed. By default they are two in
  // all, which a busy machine may need to tell the streams.
  setenv("OMPI_MCA_odls_base_sigkill_timeout", "5", /*overwrite=*/1);
  Served served = Served::Endless();
  const v1::GetClusterResponse cluster = served.Cluster();
  ASSERT_THAT(cluster.ranks(), SizeIs(2));
  Load load(served.inference(), kStreams);
  Signal(cluster.ranks(1), SIGKILL);
  const auto names_it = AllOf(HasSubstr("rank 1 on " + cluster.ranks(1).info().host() + " is gone"),
                              HasSubstr("its last step was "));
  for (const grpc::Status& end : load.Ends()) {
    EXPECT_EQ(end.error_code(), grpc::StatusCode::UNAVAILABLE);
    EXPECT_THAT(end.error_message(), names_it);
  }
  ExpectNothingIsLeft(served);
  EXPECT_THAT(served.job().err(), names_it);
}

TEST(LostRankTest, ARankThatStopsIsNamedInEveryStreamAndEndsTheJob) {
  // Time enough to see that it is silent before the job ends for it.
  Served served = Served::Endless({"--stall-timeout", "15"});
  const v1::GetClusterResponse cluster = served.Cluster();
  ASSERT_THAT(cluster.ranks(), SizeIs(2));
  Load load(served.inference(), kStreams);
  Signal(cluster.ranks(1), SIGSTOP);
  const auto only_one_is_silent = [&served] {
    const v1::GetClusterResponse now = served.Cluster();
    return now.ranks_size() == 2 && now.ranks(0).state() == v1::RANK_STATE_ALIVE &&
           now.ranks(1).state() == v1::RANK_STATE_SILENT;
  };
  bool seen = false;
  for (int i = 0; i < 6000 && !seen && !HasFailure(); ++i) {  // a call fails once the job has ended
    seen = only_one_is_silent();
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  EXPECT_TRUE(seen);
  const auto names_it =
      AllOf(HasSubstr("rank 1 on " + cluster.ranks(1).info().host() + " has been silent for "),
            HasSubstr("its last step was "));
  for (const grpc::Status& end : load.Ends()) {
    EXPECT_EQ(end.error_code(), grpc::StatusCode::UNAVAILABLE);
    EXPECT_THAT(end.error_message(), names_it);
  }
  ExpectNothingIsLeft(served);
  EXPECT_THAT(served.job().err(), names_it);
}

// With rank 0 goes who could say more.
TEST(LostRankTest, RankZeroDies) {
  Served served = Served::Endless();
  const v1::GetClusterResponse cluster = served.Cluster();
  Load load(served.inference(), kStreams);
  Signal(cluster.ranks(0), SIGKILL);
  for (const grpc::Status& end : load.Ends()) {
    EXPECT_EQ(end.error_code(), grpc::StatusCode::UNAVAILABLE);
  }
  ExpectNothingIsLeft(served);
}

TEST(LostRankTest, RankZeroStops) {
  Served served = Served::Endless({"--stall-timeout", "10"});
  const v1::GetClusterResponse cluster = served.Cluster();
  Load load(served.inference(), kStreams);
  Signal(cluster.ranks(0), SIGSTOP);
  for (const grpc::Status& end : load.Ends()) {
    EXPECT_EQ(end.error_code(), grpc::StatusCode::UNAVAILABLE);
  }
  ExpectNothingIsLeft(served);
  EXPECT_THAT(served.job().err(), HasSubstr("rank 0 has not answered"));
}

}  // namespace
}  // namespace intermix
