// The control plane: the table of ranks, and ranks that report to it over loopback.
#include <chrono>
#include <future>
#include <thread>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "runtime/rpc/cluster_table.h"
#include "runtime/rpc/control_client.h"
#include "runtime/rpc/proto_convert.h"
#include "runtime/rpc/server.h"

namespace intermix {
namespace {

using ::testing::HasSubstr;
using ::testing::SizeIs;

v1::RankInfo Info(uint32_t rank, const std::string& host = "here") {
  v1::RankInfo info;
  info.set_rank(rank);
  info.set_host(host);
  return info;
}

v1::RankStatus Status(uint64_t step) {
  v1::RankStatus status;
  status.set_step(step);
  return status;
}

class ClusterTableTest : public ::testing::Test {
 protected:
  ClusterTable::Clock::time_point now_{};
  ClusterTable table_{3, [this] { return now_; }};
};

TEST_F(ClusterTableTest, ListsRanksInOrderWithTheAgeOfTheirHeartbeats) {
  ASSERT_TRUE(table_.Register(Info(2)).ok());
  ASSERT_TRUE(table_.Register(Info(0)).ok());
  now_ += std::chrono::milliseconds(1500);
  ASSERT_TRUE(table_.Heartbeat(2, Status(17)).ok());
  now_ += std::chrono::milliseconds(250);
  const v1::GetClusterResponse cluster = table_.Snapshot();
  EXPECT_EQ(cluster.world(), 3);
  ASSERT_THAT(cluster.ranks(), SizeIs(2));
  EXPECT_EQ(cluster.ranks(0).info().rank(), 0);
  EXPECT_EQ(cluster.ranks(1).info().rank(), 2);
  EXPECT_EQ(cluster.ranks(1).status().step(), 17);
  EXPECT_EQ(DurationFromProto(cluster.ranks(0).heartbeat_age()), absl::Milliseconds(1750));
  EXPECT_EQ(DurationFromProto(cluster.ranks(1).heartbeat_age()), absl::Milliseconds(250));
}

TEST_F(ClusterTableTest, RegisteringAgainReplaces) {
  ASSERT_TRUE(table_.Register(Info(1, "old")).ok());
  ASSERT_TRUE(table_.Register(Info(1, "new")).ok());
  ASSERT_THAT(table_.Snapshot().ranks(), SizeIs(1));
  EXPECT_EQ(table_.Snapshot().ranks(0).info().host(), "new");
}

TEST_F(ClusterTableTest, RefusesStrangers) {
  EXPECT_EQ(table_.Register(Info(3)).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(table_.Heartbeat(1, Status(1)).code(), absl::StatusCode::kNotFound);
}

TEST_F(ClusterTableTest, FindsTheRankThatIsSilentForLongest) {
  ASSERT_TRUE(table_.Register(Info(0)).ok());
  now_ += std::chrono::seconds(1);
  ASSERT_TRUE(table_.Register(Info(1)).ok());
  now_ += std::chrono::seconds(4);
  EXPECT_FALSE(table_.FindSilent(absl::Seconds(5)).has_value());
  const auto silent = table_.FindSilent(absl::Seconds(3));
  ASSERT_TRUE(silent.has_value());
  EXPECT_EQ(silent->rank, 0);
  EXPECT_EQ(silent->age, absl::Seconds(5));
  ASSERT_TRUE(table_.Heartbeat(0, Status(1)).ok());
  EXPECT_EQ(table_.FindSilent(absl::Seconds(3))->rank, 1);
}

class ControlClientTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto server = RpcServer::Start(
        {.listen = {.port = 0, .port_given = true}, .world = 2, .on_stop_requested = [this] {
           if (!stopped_.exchange(true)) stop_.set_value();
         }});
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }

  ControlClientOptions Options() const {
    return {.address = server_->address().ToString(),
            .job_id = server_->job_id(),
            .interval = absl::Milliseconds(5)};
  }

  // Waits, for a minute at most, until the table says so.
  bool Eventually(const std::function<bool(const v1::GetClusterResponse&)>& condition) {
    for (int i = 0; i < 60000; ++i) {
      if (condition(server_->cluster().Snapshot())) return true;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return false;
  }

  std::atomic<bool> stopped_{false};
  std::promise<void> stop_;
  std::unique_ptr<RpcServer> server_;
};

TEST_F(ControlClientTest, RegistersAndReportsWhatChanges) {
  std::atomic<uint64_t> step{0};
  ControlClient client(Options(), Info(1), [&step] { return Status(++step); });
  EXPECT_TRUE(Eventually(
      [](const auto& c) { return c.ranks_size() == 1 && c.ranks(0).status().step() >= 3; }));
  EXPECT_EQ(server_->cluster().Snapshot().ranks(0).info().rank(), 1);
  client.SetInfo(Info(1, "loaded"));
  EXPECT_TRUE(Eventually([](const auto& c) { return c.ranks(0).info().host() == "loaded"; }));
}

TEST_F(ControlClientTest, TellsRankZeroToStop) {
  ControlClient client(Options(), Info(1), [] { return Status(0); });
  ASSERT_TRUE(Eventually([](const auto& c) { return c.ranks_size() == 1; }));
  EXPECT_FALSE(stopped_);
  client.RequestStop();
  EXPECT_EQ(stop_.get_future().wait_for(std::chrono::minutes(1)), std::future_status::ready);
}

TEST_F(ControlClientTest, ARankOfAnotherJobIsRefused) {
  const auto stub = v1::Control::NewStub(
      grpc::CreateChannel(server_->address().ToString(), grpc::InsecureChannelCredentials()));
  v1::RegisterRequest stray;
  stray.set_job_id("of yesterday");
  *stray.mutable_info() = Info(1);
  v1::RegisterResponse registered;
  grpc::ClientContext register_context;
  EXPECT_EQ(stub->Register(&register_context, stray, &registered).error_code(),
            grpc::StatusCode::PERMISSION_DENIED);
  v1::HeartbeatRequest heartbeat;
  heartbeat.set_job_id("of yesterday");
  heartbeat.set_stop_requested(true);
  v1::HeartbeatResponse beaten;
  grpc::ClientContext heartbeat_context;
  EXPECT_EQ(stub->Heartbeat(&heartbeat_context, heartbeat, &beaten).error_code(),
            grpc::StatusCode::PERMISSION_DENIED);
  EXPECT_FALSE(stopped_);
  EXPECT_THAT(server_->cluster().Snapshot().ranks(), SizeIs(0));
}

TEST_F(ControlClientTest, EndsAlsoWhereNobodyAnswers) {
  const ControlClientOptions options = Options();
  server_ = nullptr;
  std::future<void> ended = std::async(std::launch::async, [&options] {
    const ControlClient client(options, Info(1), [] { return Status(0); });
  });
  EXPECT_EQ(ended.wait_for(std::chrono::minutes(1)), std::future_status::ready);
}

}  // namespace
}  // namespace intermix
