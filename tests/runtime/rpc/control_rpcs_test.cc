// What an operator asks of the control service, over loopback.
#include <future>
#include <string>

#include "gmock/gmock.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "grpc/health/v1/health.grpc.pb.h"
#include "gtest/gtest.h"
#include "runtime/rpc/control_client.h"
#include "runtime/rpc/proto_convert.h"
#include "runtime/rpc/stats_call.h"
#include "tests/runtime/rpc/served_fake.h"

namespace intermix::testing {
namespace {

using ::testing::HasSubstr;

const std::vector<int32_t> kPrompt = {1, 300, 359, 478};

// Calls one method of the control service; `response` where it is not needed.
template <typename Request, typename Response>
grpc::Status Call(const ServedFake& served,
                  grpc::Status (v1::Control::Stub::*method)(grpc::ClientContext*, const Request&,
                                                            Response*),
                  const Request& request, Response* response) {
  grpc::ClientContext context;
  context.set_deadline(Soon());
  return (served.Control().get()->*method)(&context, request, response);
}

template <typename Request, typename Response>
grpc::Status Call(const ServedFake& served,
                  grpc::Status (v1::Control::Stub::*method)(grpc::ClientContext*, const Request&,
                                                            Response*),
                  const Request& request = {}) {
  Response response;
  return Call(served, method, request, &response);
}

using Stub = v1::Control::Stub;

bool Healthy(const ServedFake& served) {
  grpc::ClientContext context;
  context.set_deadline(Soon());
  grpc::health::v1::HealthCheckResponse response;
  const auto stub = grpc::health::v1::Health::NewStub(served.Channel());
  EXPECT_TRUE(stub->Check(&context, {}, &response).ok());
  return response.status() == grpc::health::v1::HealthCheckResponse::SERVING;
}

// A request that runs until the gate lets it end, or it is aborted.
class HeldRequest {
 public:
  HeldRequest(ServedFake& served, const std::string& id) {
    served.gate().Close();
    v1::GenerateRequest request = TokenRequest(kPrompt, 20);
    request.set_request_id(id);
    context_.set_deadline(Soon());
    reader_ = served.Inference()->Generate(&context_, request);
    served.gate().AwaitWaiting();
  }
  ~HeldRequest() {
    if (read_) return;
    context_.TryCancel();
    ReadAll(*reader_);
  }
  Answer Read() {
    read_ = true;
    return ReadAll(*reader_);
  }

 private:
  bool read_ = false;
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReader<v1::GenerateResponse>> reader_;
};

TEST(ControlRpcsTest, TellsOfModelAndLoadOnceItIsLoaded) {
  ServedFake served({.open = false});
  EXPECT_EQ(Call(served, &Stub::GetModelInfo).error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(Call(served, &Stub::GetLoad).error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(Call(served, &Stub::Tokenize).error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(Call(served, &Stub::FlushPrefixCache).error_code(), grpc::StatusCode::UNAVAILABLE);
  served.Open();
  v1::GetModelInfoResponse model;
  ASSERT_TRUE(Call(served, &Stub::GetModelInfo, {}, &model).ok());
  EXPECT_EQ(model.model().name(), "fake");
  EXPECT_EQ(model.bos_token_id(), 1);
  EXPECT_THAT(model.eos_token_ids(), ::testing::ElementsAre(2));
  EXPECT_EQ(model.max_n(), 32);
  HeldRequest held(served, "held");
  v1::GetLoadResponse load;
  ASSERT_TRUE(Call(served, &Stub::GetLoad, {}, &load).ok());
  EXPECT_EQ(load.open_streams(), 1);
  EXPECT_TRUE(load.serving());
  EXPECT_EQ(load.engine().total_kv_blocks(), 64);
  served.gate().Open();
  EXPECT_TRUE(held.Read().status.ok());
}

TEST(ControlRpcsTest, TurnsTextIntoTokensAndBack) {
  ServedFake served;
  v1::TokenizeRequest request;
  request.set_text("And it came to pass");
  v1::TokenizeResponse tokens;
  ASSERT_TRUE(Call(served, &Stub::Tokenize, request, &tokens).ok());
  EXPECT_THAT(tokens.token_ids(), ::testing::ElementsAre(1, 300, 359, 478, 292, 605));
  v1::DetokenizeRequest back;
  *back.mutable_token_ids() = tokens.token_ids();
  v1::DetokenizeResponse text;
  ASSERT_TRUE(Call(served, &Stub::Detokenize, back, &text).ok());
  EXPECT_EQ(text.text(), "And it came to pass");
  request.set_add_special_tokens(false);
  ASSERT_TRUE(Call(served, &Stub::Tokenize, request, &tokens).ok());
  EXPECT_EQ(tokens.token_ids(0), 300);
  back.add_token_ids(2048);
  const grpc::Status status = Call(served, &Stub::Detokenize, back);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(status.error_message(), HasSubstr("token_ids holds 2048"));
  for (int i = 0; i < 257; ++i) back.add_token_ids(0);
  EXPECT_THAT(Call(served, &Stub::Detokenize, back).error_message(), HasSubstr("at most 256"));
}

TEST(ControlRpcsTest, FailuresSayInDetailsWhoSaysSo) {
  ServedFake served;
  const grpc::Status status = Call(served, &Stub::Abort);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  google::rpc::Status details;
  ASSERT_TRUE(details.ParseFromString(status.error_details()));
  EXPECT_EQ(details.code(), static_cast<int>(status.error_code()));
  EXPECT_EQ(details.message(), status.error_message());
  google::rpc::ErrorInfo info;
  ASSERT_EQ(details.details_size(), 1);
  ASSERT_TRUE(details.details(0).UnpackTo(&info));
  EXPECT_EQ(info.domain(), "intermix");
  EXPECT_EQ(info.reason(), "INVALID_ARGUMENT");
}

TEST(ControlRpcsTest, AbortsByIdOrAll) {
  ServedFake served;
  HeldRequest first(served, "a");
  v1::AbortRequest request;
  v1::AbortResponse response;
  request.set_request_id("b");
  ASSERT_TRUE(Call(served, &Stub::Abort, request, &response).ok());
  EXPECT_EQ(response.aborted(), 0);
  request.set_request_id("a");
  ASSERT_TRUE(Call(served, &Stub::Abort, request, &response).ok());
  EXPECT_EQ(response.aborted(), 1);
  served.gate().Open();
  EXPECT_EQ(first.Read().status.error_code(), grpc::StatusCode::CANCELLED);
  HeldRequest second(served, "");
  request.set_all(true);
  ASSERT_TRUE(Call(served, &Stub::Abort, request, &response).ok());
  EXPECT_EQ(response.aborted(), 1);
  served.gate().Open();
  EXPECT_EQ(second.Read().status.error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_TRUE(Ask(*served.Inference(), TokenRequest(kPrompt, 2)).status.ok());
}

TEST(ControlRpcsTest, DrainsAndResumes) {
  ServedFake served;
  HeldRequest held(served, "");
  v1::DrainResponse drained;
  ASSERT_TRUE(Call(served, &Stub::Drain, {}, &drained).ok());
  EXPECT_EQ(drained.open_streams(), 1);
  EXPECT_FALSE(Healthy(served));
  const Answer refused = Ask(*served.Inference(), TokenRequest(kPrompt, 2));
  EXPECT_EQ(refused.status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_THAT(refused.status.error_message(), HasSubstr("draining"));
  served.gate().Open();
  EXPECT_TRUE(held.Read().status.ok()) << "what is under way goes on";
  ASSERT_TRUE(Call(served, &Stub::Resume).ok());
  EXPECT_TRUE(Healthy(served));
  EXPECT_TRUE(Ask(*served.Inference(), TokenRequest(kPrompt, 2)).status.ok());
  served.server().Drain();
  EXPECT_EQ(Call(served, &Stub::Resume).error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_FALSE(Healthy(served));
}

TEST(ControlRpcsTest, NothingToDrainWhileItLoads) {
  ServedFake served({.open = false});
  EXPECT_EQ(Call(served, &Stub::Drain).error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_EQ(Call(served, &Stub::Resume).error_code(), grpc::StatusCode::FAILED_PRECONDITION);
}

// Counts how often the server asks its owner to stop.
struct StopCounter {
  ServedFakeOptions Options() {
    ServedFakeOptions options;
    options.server.on_stop_requested = [this] { ++count; };
    return options;
  }
  bool Await() const {
    for (int i = 0; i < 60000 && count == 0; ++i) absl::SleepFor(absl::Milliseconds(1));
    return count > 0;
  }
  std::atomic<int> count{0};
};

TEST(ControlRpcsTest, ShutdownWaitsForTheStreamsWithinItsGrace) {
  StopCounter stops;
  ServedFake served(stops.Options());
  HeldRequest held(served, "");
  v1::ShutdownRequest request;
  *request.mutable_grace() = DurationToProto(absl::Hours(1));
  ASSERT_TRUE(Call(served, &Stub::Shutdown, request).ok());
  EXPECT_FALSE(Healthy(served));
  EXPECT_EQ(Call(served, &Stub::Resume).error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  absl::SleepFor(absl::Milliseconds(30));
  EXPECT_EQ(stops.count, 0) << "a stream is open";
  served.gate().Open();
  EXPECT_TRUE(held.Read().status.ok());
  EXPECT_TRUE(stops.Await());
}

TEST(ControlRpcsTest, ASecondShutdownMayWantItSooner) {
  StopCounter stops;
  ServedFake served(stops.Options());
  HeldRequest held(served, "");
  v1::ShutdownRequest request;
  *request.mutable_grace() = DurationToProto(absl::Hours(1));
  ASSERT_TRUE(Call(served, &Stub::Shutdown, request).ok());
  *request.mutable_grace() = DurationToProto(absl::Hours(2));
  ASSERT_TRUE(Call(served, &Stub::Shutdown, request).ok());
  EXPECT_EQ(stops.count, 0);
  *request.mutable_grace() = DurationToProto(absl::Milliseconds(1));
  ASSERT_TRUE(Call(served, &Stub::Shutdown, request).ok());
  EXPECT_TRUE(stops.Await());
}

TEST(ControlRpcsTest, ShutdownWithoutGraceStopsAtOnce) {
  StopCounter stops;
  ServedFake served(stops.Options());
  HeldRequest held(served, "");
  ASSERT_TRUE(Call(served, &Stub::Shutdown).ok());
  EXPECT_TRUE(stops.Await());
  v1::ShutdownRequest bad;
  bad.mutable_grace()->set_seconds(-1);
  EXPECT_EQ(Call(served, &Stub::Shutdown, bad).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
}

TEST(ControlRpcsTest, AServerThatEndsWaitsForNoShutdown) {
  StopCounter stops;
  auto served = std::make_unique<ServedFake>(stops.Options());
  HeldRequest held(*served, "");
  v1::ShutdownRequest request;
  *request.mutable_grace() = DurationToProto(absl::Hours(1));
  ASSERT_TRUE(Call(*served, &Stub::Shutdown, request).ok());
  served = nullptr;
  held.Read();  // not after an hour
}

TEST(ControlRpcsTest, FlushesThePrefixCache) {
  ServedFake served;
  const v1::GenerateRequest request = TokenRequest(std::vector<int32_t>(21, 300), 2);
  Ask(*served.Inference(), request);
  Ask(*served.Inference(), request);
  EXPECT_EQ(served.engine()->Snapshot().prefix_hit_tokens, 20);
  ASSERT_TRUE(Call(served, &Stub::FlushPrefixCache).ok());
  Ask(*served.Inference(), request);
  EXPECT_EQ(served.engine()->Snapshot().prefix_hit_tokens, 20);
  Ask(*served.Inference(), request);
  EXPECT_EQ(served.engine()->Snapshot().prefix_hit_tokens, 40);
}

TEST(ControlRpcsTest, ALogLevelReachesEveryRankWithItsHeartbeat) {
  ServedFake served;
  std::promise<std::string> heard;
  v1::RankInfo info;
  const ControlClient rank({.address = served.server().address().ToString(),
                            .job_id = served.server().job_id(),
                            .interval = absl::Milliseconds(5),
                            .on_log_level = [&](const auto& level) { heard.set_value(level); }},
                           info, [] { return v1::RankStatus(); });
  v1::SetLogLevelRequest request;
  request.set_level("loud");
  EXPECT_EQ(Call(served, &Stub::SetLogLevel, request).error_code(),
            grpc::StatusCode::INVALID_ARGUMENT);
  request.set_level("debug");
  ASSERT_TRUE(Call(served, &Stub::SetLogLevel, request).ok());
  std::future<std::string> level = heard.get_future();
  ASSERT_EQ(level.wait_for(std::chrono::minutes(1)), std::future_status::ready);
  EXPECT_EQ(level.get(), "debug");
}

TEST(ControlRpcsTest, WatchesStatsUntilTheClientHasEnough) {
  ServedFake served;
  v1::WatchStatsRequest request;
  *request.mutable_interval() = DurationToProto(absl::Milliseconds(100));
  grpc::ClientContext context;
  context.set_deadline(Soon());
  const auto stub = served.Control();
  const auto reader = stub->WatchStats(&context, request);
  v1::Stats stats;
  ASSERT_TRUE(reader->Read(&stats));
  EXPECT_TRUE(stats.serving());
  EXPECT_EQ(stats.engine().generated_tokens(), 0);
  EXPECT_EQ(stats.cluster().world(), 1);
  Ask(*served.Inference(), TokenRequest(kPrompt, 7));
  while (stats.engine().generated_tokens() != 7) ASSERT_TRUE(reader->Read(&stats));
  context.TryCancel();
  while (reader->Read(&stats)) {
  }
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
}

TEST(ControlRpcsTest, AWatchDoesNotOutliveTheServer) {
  v1::WatchStatsRequest request;
  *request.mutable_interval() = DurationToProto(absl::Hours(1));
  grpc::ClientContext context;
  context.set_deadline(Soon());
  std::unique_ptr<v1::Control::Stub> stub;
  std::unique_ptr<grpc::ClientReader<v1::Stats>> reader;
  {
    ServedFake served;
    stub = served.Control();
    reader = stub->WatchStats(&context, request);
    v1::Stats stats;
    ASSERT_TRUE(reader->Read(&stats));
  }
  EXPECT_FALSE(reader->Finish().ok());
}

TEST(ControlRpcsTest, RefusesAWatchThatIsTooQuick) {
  ServedFake served;
  v1::WatchStatsRequest request;
  request.mutable_interval()->set_nanos(1000);
  grpc::ClientContext context;
  context.set_deadline(Soon());
  const auto stub = served.Control();
  const grpc::Status status = stub->WatchStats(&context, request)->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(status.error_message(), HasSubstr("interval is 1us"));
}

TEST(ControlRpcsTest, SoManyMayWatchAndNoMore) {
  struct Watch {
    grpc::ClientContext context;
    std::unique_ptr<grpc::ClientReader<v1::Stats>> reader;
  };
  ServedFake served;
  const auto stub = served.Control();
  v1::WatchStatsRequest request;
  *request.mutable_interval() = DurationToProto(absl::Hours(1));
  v1::Stats stats;
  std::vector<std::unique_ptr<Watch>> watches;
  const auto watch = [&] {
    watches.push_back(std::make_unique<Watch>());
    Watch& added = *watches.back();
    added.context.set_deadline(Soon());
    added.reader = stub->WatchStats(&added.context, request);
    return added.reader->Read(&stats);
  };
  for (int i = 0; i < ControlService::kMaxWatches; ++i) ASSERT_TRUE(watch()) << i;
  EXPECT_FALSE(watch());
  EXPECT_EQ(watches.back()->reader->Finish().error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  watches.front()->context.TryCancel();
  EXPECT_EQ(watches.front()->reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
  bool again = false;
  for (int i = 0; i < 6000 && !again; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
    again = watch();
  }
  EXPECT_TRUE(again);
  for (const auto& each : watches) each->context.TryCancel();
}

TEST(SetRatesTest, DividesTheChangeByTheTime) {
  v1::Stats before;
  before.mutable_engine()->set_generated_tokens(100);
  v1::Stats now;
  now.mutable_engine()->set_generated_tokens(150);
  now.mutable_engine()->set_step(4);
  SetRates(before, absl::Seconds(2), now);
  EXPECT_EQ(now.generated_tokens_per_second(), 25.0);
  EXPECT_EQ(now.steps_per_second(), 2.0);
  EXPECT_EQ(now.prompt_tokens_per_second(), 0.0);
}

}  // namespace
}  // namespace intermix::testing
