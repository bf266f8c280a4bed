// JobMonitor: what it makes of ranks that are gone or silent, and of steps that do not end.
#include "launch/job_monitor.h"

#include <future>
#include <optional>
#include <thread>

#include "gmock/gmock.h"
#include "grpc/health/v1/health.grpc.pb.h"
#include "gtest/gtest.h"
#include "tests/runtime/rpc/served_fake.h"

namespace intermix::testing {
namespace {

using ::testing::HasSubstr;

ServedFakeOptions TwoRanks() {
  ServedFakeOptions options;
  options.server.world = 2;
  return options;
}

// A served fake with a monitor, whose end of the process is a promise, and with a stream that waits
// for a step that does not end.
class JobMonitorTest : public ::testing::Test {
 protected:
  void Watch(absl::Duration stall_timeout) {
    monitor_.emplace(
        served_.server(), *served_.engine(),
        JobMonitor::Options{.stall_timeout = stall_timeout, .end = [this](const std::string& why) {
                              if (!ended_.exchange(true)) why_.set_value(why);
                            }});
  }
  void Register(uint32_t rank) {
    v1::RankInfo info;
    info.set_rank(rank);
    info.set_host("there");
    ASSERT_TRUE(served_.server().cluster().Register(info).ok());
    ASSERT_TRUE(served_.server().cluster().Connect(rank).ok());
  }
  void Hold() {
    served_.gate().Close();
    context_.set_deadline(Soon());
    reader_ = stub_->Generate(&context_, TokenRequest({1, 300}, 5));
    served_.gate().AwaitWaiting();
  }
  bool EventuallyHealthy(bool healthy) {
    const auto health = grpc::health::v1::Health::NewStub(served_.Channel());
    for (int i = 0; i < 60000; ++i) {
      grpc::ClientContext context;
      context.set_deadline(Soon());
      grpc::health::v1::HealthCheckResponse response;
      EXPECT_TRUE(health->Check(&context, {}, &response).ok());
      if (healthy == (response.status() == grpc::health::v1::HealthCheckResponse::SERVING)) {
        return true;
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return false;
  }
  // Why the job ends, and that its stream says so.
  std::string AwaitEnd() {
    std::future<std::string> why = why_.get_future();
    if (why.wait_for(std::chrono::minutes(4)) != std::future_status::ready) return "it does not";
    const Answer answer = ReadAll(*reader_);
    EXPECT_EQ(answer.status.error_code(), grpc::StatusCode::UNAVAILABLE);
    std::string sentence = why.get();
    EXPECT_EQ(answer.status.error_message(), sentence);
    return sentence;
  }

  std::promise<std::string> why_;
  std::atomic<bool> ended_{false};
  ServedFake served_{TwoRanks()};
  std::unique_ptr<v1::Inference::Stub> stub_ = served_.Inference();
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReader<v1::GenerateResponse>> reader_;
  std::optional<JobMonitor> monitor_;
};

TEST_F(JobMonitorTest, ARankThatIsGoneEndsTheJob) {
  Register(1);
  Watch(absl::Hours(1));
  Hold();
  served_.server().cluster().Disconnect(1);
  EXPECT_THAT(AwaitEnd(), HasSubstr("rank 1 on there is gone"));
}

// The monitor must look more often than twice in it: else it takes this process for the stuck one.
constexpr absl::Duration kStall = absl::Seconds(3);

TEST_F(JobMonitorTest, ARankThatIsSilentEndsTheJob) {
  Hold();
  Register(1);
  Watch(kStall);
  EXPECT_THAT(AwaitEnd(), HasSubstr("rank 1 on there has been silent for"));
}

TEST_F(JobMonitorTest, WhoIsAskedToStopSeesThatARankIsGone) {
  Register(1);
  Watch(absl::Hours(1));
  Hold();
  monitor_->EndIfARankIsGone();
  EXPECT_FALSE(ended_);
  served_.server().cluster().Disconnect(1);
  monitor_->EndIfARankIsGone();
  EXPECT_TRUE(ended_);
  EXPECT_THAT(AwaitEnd(), HasSubstr("rank 1 on there is gone"));
}

TEST_F(JobMonitorTest, AStepThatDoesNotEndMakesHealthBadUntilItDoes) {
  EXPECT_TRUE(EventuallyHealthy(true));
  Watch(kStall);
  Hold();
  EXPECT_TRUE(EventuallyHealthy(false));
  served_.gate().Open();
  EXPECT_TRUE(EventuallyHealthy(true));
  EXPECT_TRUE(ReadAll(*reader_).status.ok());
  EXPECT_FALSE(ended_);
}

}  // namespace
}  // namespace intermix::testing
