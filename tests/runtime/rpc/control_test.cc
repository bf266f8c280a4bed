// The control plane: the table of ranks, and ranks that report to it over loopback.
#include <chrono>
#include <cstdlib>
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
  EXPECT_EQ(table_.Connect(1).code(), absl::StatusCode::kNotFound);
}

constexpr absl::Duration kGone = absl::Seconds(1);

TEST_F(ClusterTableTest, NamesTheRankThatIsSilentForLongest) {
  ASSERT_TRUE(table_.Register(Info(0)).ok());
  now_ += std::chrono::seconds(1);
  ASSERT_TRUE(table_.Register(Info(1)).ok());
  now_ += std::chrono::seconds(4);
  EXPECT_EQ(table_.FindTrouble(kGone, absl::Seconds(6)), std::nullopt);
  EXPECT_EQ(
      table_.FindTrouble(kGone, absl::Seconds(3)),
      "rank 0 on here has been silent for 5s; when last heard of it was unspecified, its last "
      "step was 0");
  v1::RankStatus status = Status(17);
  status.set_phase(v1::RANK_PHASE_STEPPING);
  ASSERT_TRUE(table_.Heartbeat(0, status).ok());
  EXPECT_THAT(*table_.FindTrouble(kGone, absl::Seconds(3)), HasSubstr("rank 1 on here"));
  EXPECT_EQ(table_.Snapshot().ranks(0).state(), v1::RANK_STATE_ALIVE);
  EXPECT_EQ(table_.Snapshot().ranks(1).state(), v1::RANK_STATE_SILENT);
  table_.ForgiveSilence();
  EXPECT_EQ(table_.FindTrouble(kGone, absl::Seconds(3)), std::nullopt);
  now_ += std::chrono::seconds(3);
  EXPECT_EQ(table_.FindTrouble(kGone, absl::Seconds(3)),
            "rank 0 on here has been silent for 3s; when last heard of it was stepping, its last "
            "step was 17");
}

TEST_F(ClusterTableTest, ARankWhoseConnectionEndedIsGoneUnlessItComesBackInTime) {
  ASSERT_TRUE(table_.Register(Info(1, "there")).ok());
  ASSERT_TRUE(table_.Connect(1).ok());
  EXPECT_FALSE(table_.AwaitGone(absl::ZeroDuration()));
  table_.Disconnect(1);
  EXPECT_TRUE(table_.AwaitGone(absl::ZeroDuration()));
  EXPECT_EQ(table_.Snapshot().ranks(0).state(), v1::RANK_STATE_GONE);
  EXPECT_EQ(table_.FindTrouble(kGone, absl::InfiniteDuration()), std::nullopt);
  EXPECT_THAT(*table_.FindTrouble(absl::ZeroDuration(), absl::InfiniteDuration()),
              HasSubstr("rank 1 on there is gone: its connection ended"));
  ASSERT_TRUE(table_.Connect(1).ok());  // it has come back
  now_ += std::chrono::seconds(1);
  EXPECT_EQ(table_.FindTrouble(kGone, absl::InfiniteDuration()), std::nullopt);
  table_.Disconnect(1);
  now_ += std::chrono::seconds(1);
  EXPECT_NE(table_.FindTrouble(kGone, absl::InfiniteDuration()), std::nullopt);
}

TEST_F(ClusterTableTest, OfARankThatSaidThatItLeavesNothingIsExpected) {
  ASSERT_TRUE(table_.Register(Info(1)).ok());
  ASSERT_TRUE(table_.Connect(1).ok());
  ASSERT_TRUE(table_.Heartbeat(1, Status(3), true).ok());
  ASSERT_TRUE(table_.Heartbeat(1, Status(2)).ok()) << "sent before, but later on the way";
  table_.Disconnect(1);
  now_ += std::chrono::hours(1);
  EXPECT_FALSE(table_.AwaitGone(absl::ZeroDuration()));
  EXPECT_EQ(table_.FindTrouble(kGone, absl::Seconds(3)), std::nullopt);
  EXPECT_EQ(table_.Snapshot().ranks(0).state(), v1::RANK_STATE_LEFT);
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

  // No call fails because this process had to wait for a CPU.
  ControlClientOptions Options() const {
    return {.address = server_->address().ToString(),
            .job_id = server_->job_id(),
            .interval = absl::Milliseconds(5),
            .rpc_timeout = absl::Minutes(1),
            .farewell_timeout = absl::Minutes(1)};
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

// Where such a variable is set, gRPC would ask the proxy for all that it connects to.
TEST_F(ControlClientTest, ReportsPastAnyProxy) {
  setenv("http_proxy", "http://127.0.0.1:1", /*overwrite=*/1);
  setenv("no_grpc_proxy", "elsewhere", /*overwrite=*/1);
  const ControlClient client(Options(), Info(1), [] { return Status(0); });
  EXPECT_TRUE(Eventually([](const auto& c) { return c.ranks_size() == 1; }));
  unsetenv("http_proxy");
  unsetenv("no_grpc_proxy");
}

TEST_F(ControlClientTest, TellsRankZeroToStop) {
  ControlClient client(Options(), Info(1), [] { return Status(0); });
  ASSERT_TRUE(Eventually([](const auto& c) { return c.ranks_size() == 1; }));
  EXPECT_FALSE(stopped_);
  client.RequestStop();
  EXPECT_EQ(stop_.get_future().wait_for(std::chrono::minutes(1)), std::future_status::ready);
}

// A connection of a rank that just ends, as a process that is killed leaves it.
TEST_F(ControlClientTest, TheEndOfAConnectionIsNoticed) {
  // The rank lost one connection, so that the table shows when it knows of the next.
  ASSERT_TRUE(server_->cluster().Register(Info(1)).ok());
  ASSERT_TRUE(server_->cluster().Connect(1).ok());
  server_->cluster().Disconnect(1);
  ASSERT_TRUE(server_->cluster().AwaitGone(absl::ZeroDuration()));
  {
    const auto stub = v1::Control::NewStub(
        grpc::CreateChannel(server_->address().ToString(), grpc::InsecureChannelCredentials()));
    grpc::ClientContext context;
    v1::AttendRequest request;
    request.set_job_id(server_->job_id());
    request.set_rank(1);
    v1::AttendResponse response;
    const auto writer = stub->Attend(&context, &response);
    ASSERT_TRUE(writer->Write(request));
    EXPECT_TRUE(
        Eventually([](const auto& c) { return c.ranks(0).state() != v1::RANK_STATE_GONE; }));
    context.TryCancel();
    writer->Finish();
  }
  EXPECT_TRUE(server_->cluster().AwaitGone(absl::Minutes(1)));
}

TEST_F(ControlClientTest, ARankThatEndsInOrderSaysSo) {
  {
    const ControlClient client(Options(), Info(1), [] { return Status(0); });
    ASSERT_TRUE(Eventually([](const auto& c) { return c.ranks_size() == 1; }));
  }
  EXPECT_EQ(server_->cluster().Snapshot().ranks(0).state(), v1::RANK_STATE_LEFT);
}

TEST_F(ControlClientTest, SaysWhenRankZeroDoesNotAnswer) {
  ControlClientOptions options = Options();
  std::promise<void> silent;
  std::atomic<bool> said{false};
  options.silence_limit = absl::Milliseconds(50);
  options.on_silence = [&] {
    if (!said.exchange(true)) silent.set_value();
  };
  const ControlClient client(options, Info(1), [] { return Status(0); });
  ASSERT_TRUE(Eventually([](const auto& c) { return c.ranks_size() == 1; }));
  EXPECT_FALSE(said);
  server_ = nullptr;
  EXPECT_EQ(silent.get_future().wait_for(std::chrono::minutes(1)), std::future_status::ready);
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
  v1::AttendRequest attend;
  attend.set_job_id("of yesterday");
  v1::AttendResponse attended;
  grpc::ClientContext attend_context;
  const auto writer = stub->Attend(&attend_context, &attended);
  writer->Write(attend);
  EXPECT_EQ(writer->Finish().error_code(), grpc::StatusCode::PERMISSION_DENIED);
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
