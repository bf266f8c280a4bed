// What a server tells of each Generate call once it is over.
#include "runtime/rpc/request_record.h"

#include <condition_variable>
#include <mutex>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "runtime/rpc/generate_call.h"
#include "tests/runtime/rpc/served_fake.h"

namespace intermix::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

const std::string kTrace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

TEST(TraceparentTest, IsTakenAsTheStandardWritesIt) {
  EXPECT_EQ(ValidTraceparent(kTrace), kTrace);
  EXPECT_EQ(ValidTraceparent("cc" + kTrace.substr(2) + "-what-the-future-brings"),
            "cc" + kTrace.substr(2));
}

TEST(TraceparentTest, MalformedOnesAreIgnored) {
  for (const std::string& bad : std::vector<std::string>{
           "",
           kTrace + "-more",                                           // version 00 has no more
           kTrace + "\n",                                              //
           "cc" + kTrace.substr(2) + "x",                              //
           "ff" + kTrace.substr(2),                                    // not a version
           kTrace.substr(0, 54),                                       // too short
           "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",  // upper case
           "00-00000000000000000000000000000000-b7ad6b7169203331-01",  // no trace
           "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",  // no parent
           "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0g",  //
           "00_0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",  //
       }) {
    EXPECT_EQ(ValidTraceparent(bad), "") << bad;
  }
}

// A server, and the records that it hands out.
class RecordsTest : public ::testing::Test {
 protected:
  static ServedFakeOptions Options(RecordsTest* self) {
    ServedFakeOptions options;
    options.server.on_request_end = [self](const RequestRecord& record) {
      const std::lock_guard lock(self->mutex_);
      self->records_.push_back(record);
      self->changed_.notify_all();
    };
    return options;
  }

  // The next record that comes; a test failure after a minute.
  RequestRecord Next() {
    std::unique_lock lock(mutex_);
    EXPECT_TRUE(changed_.wait_for(lock, std::chrono::minutes(1),
                                  [this] { return records_.size() > taken_; }));
    return records_.size() > taken_ ? records_[taken_++] : RequestRecord();
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<RequestRecord> records_;
  size_t taken_ = 0;
  ServedFake served_{Options(this)};
  const std::unique_ptr<v1::Inference::Stub> stub_ = served_.Inference();
};

std::vector<int32_t> Prompt(int32_t length) {
  std::vector<int32_t> prompt;
  for (int32_t i = 0; i < length; ++i) prompt.push_back(3 + i % 1000);
  return prompt;
}

TEST_F(RecordsTest, AnAnsweredRequest) {
  v1::GenerateRequest request = TokenRequest(Prompt(40), 5);
  request.set_request_id("mine");
  grpc::ClientContext context;
  context.set_deadline(Soon());
  context.AddMetadata("traceparent", kTrace);
  const Answer answer = ReadAll(*stub_->Generate(&context, request));
  ASSERT_TRUE(answer.status.ok()) << answer.status.error_message();
  const RequestRecord record = Next();
  EXPECT_EQ(record.id, "mine");
  EXPECT_EQ(record.traceparent, kTrace);
  EXPECT_EQ(record.prompt_tokens, 40);
  EXPECT_EQ(record.cached_tokens, 0);
  EXPECT_EQ(record.output_tokens, 5);
  EXPECT_TRUE(record.status.ok());
  EXPECT_THAT(record.finish_reasons, ElementsAre(FinishReason::kLength));
  ASSERT_TRUE(record.queued.has_value() && record.first_token.has_value());
  EXPECT_LE(*record.queued, *record.first_token);
  EXPECT_LE(*record.first_token, record.total);

  Ask(*stub_, request);
  EXPECT_GT(Next().cached_tokens, 0) << "the same prompt again";
}

TEST_F(RecordsTest, SeveralAnswersAreOneRecord) {
  v1::GenerateRequest request = TokenRequest(Prompt(4), 5);
  request.mutable_sampling()->set_n(3);
  Ask(*stub_, request);
  const RequestRecord record = Next();
  EXPECT_EQ(record.id, "#1") << "what the server calls one that has no id";
  EXPECT_EQ(record.traceparent, "");
  EXPECT_EQ(record.output_tokens, 15);
  EXPECT_EQ(record.finish_reasons.size(), 3u);
}

TEST_F(RecordsTest, ARefusedRequestHasItsIdToo) {
  v1::GenerateRequest request = TokenRequest(Prompt(4), 5);
  request.set_request_id("bad");
  request.mutable_sampling()->set_top_p(2);
  EXPECT_EQ(Ask(*stub_, request).status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  const RequestRecord record = Next();
  EXPECT_EQ(record.id, "bad");
  EXPECT_EQ(record.status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(record.status.message()), HasSubstr("top_p is 2"));
  EXPECT_FALSE(record.queued.has_value() || record.first_token.has_value());

  served_.server().Drain();
  EXPECT_EQ(Ask(*stub_, request).status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(Next().status.code(), absl::StatusCode::kUnavailable);
}

TEST_F(RecordsTest, CancelledAndLateAreTold) {
  served_.gate().Close();
  grpc::ClientContext cancelled;
  cancelled.set_deadline(Soon());
  const auto reader = stub_->Generate(&cancelled, TokenRequest(Prompt(4), 100));
  served_.gate().AwaitWaiting();
  cancelled.TryCancel();
  EXPECT_EQ(Next().status.code(), absl::StatusCode::kCancelled);
  reader->Finish();

  // As gRPC tells it the server, by a client that does not look at the clock and cancel first.
  grpc::ClientContext late;
  late.AddMetadata("grpc-timeout", "50m");
  const auto late_reader = stub_->Generate(&late, TokenRequest(Prompt(4), 100));
  const RequestRecord record = Next();
  EXPECT_EQ(record.status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT(record.finish_reasons, IsEmpty());
  late_reader->Finish();
  served_.gate().Open();
}

TEST(WhyCancelledTest, ShortlyBeforeTheDeadlineIsTheDeadline) {
  const absl::Time start = absl::Now();
  const auto code = [&](absl::Duration allowed, absl::Duration after) {
    return WhyCancelled(start, start + allowed, start + after).code();
  };
  EXPECT_EQ(code(absl::Seconds(100), absl::Seconds(50)), absl::StatusCode::kCancelled);
  EXPECT_EQ(code(absl::Seconds(100), absl::Seconds(97)), absl::StatusCode::kCancelled);
  EXPECT_EQ(code(absl::Seconds(100), absl::Seconds(99)), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(code(absl::Seconds(100), absl::Seconds(101)), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(code(absl::Milliseconds(50), absl::Milliseconds(10)), absl::StatusCode::kCancelled);
  EXPECT_EQ(code(absl::Milliseconds(50), absl::Milliseconds(45)),
            absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(code(absl::InfiniteDuration(), absl::Seconds(1)), absl::StatusCode::kCancelled);
}

}  // namespace
}  // namespace intermix::testing
