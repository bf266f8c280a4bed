// Inference.Generate when things do not go straight: clients that leave, wait, or do not read;
// too many of them; and the end of the server.
#include <unistd.h>

#include <filesystem>
#include <thread>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/runtime/rpc/served_fake.h"

namespace intermix::testing {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

const std::vector<int32_t> kPrompt = {1, 300, 359, 478};

int NumThreads() {
  int count = 0;
  for ([[maybe_unused]] const auto& task : std::filesystem::directory_iterator("/proc/self/task")) {
    ++count;
  }
  return count;
}

// Polls, for four minutes at most.
template <typename Condition>
bool Eventually(const Condition& condition) {
  for (int i = 0; i < 240000; ++i) {
    if (condition()) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return false;
}

// One client of a served fake that has got its first token, with the model held before the next.
class HeldRequest {
 public:
  explicit HeldRequest(ServedFake& served, std::chrono::system_clock::time_point deadline = Soon())
      : stub_(served.Inference()) {
    served.gate().Close();
    context_.set_deadline(deadline);
    reader_ = stub_->Generate(&context_, TokenRequest(kPrompt, 100));
    served.gate().Allow(1);
    v1::GenerateResponse first;
    if (!reader_->Read(&first)) return;
    EXPECT_THAT(first.delta().token_ids(), SizeIs(1));
    EXPECT_TRUE(Eventually(
        [&] { return served.gate().waiting() || served.engine()->Snapshot().running == 0; }));
    held_ = served.gate().waiting();
  }
  bool held() const { return held_; }  // false: the deadline was earlier
  grpc::ClientContext& context() { return context_; }
  Answer Rest() { return ReadAll(*reader_); }

 private:
  std::unique_ptr<v1::Inference::Stub> stub_;
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReader<v1::GenerateResponse>> reader_;
  bool held_ = false;
};

TEST(InferenceFlowTest, CancellingStopsTheWorkWithinAStep) {
  ServedFake served;
  HeldRequest held(served);
  ASSERT_TRUE(held.held());
  held.context().TryCancel();
  EXPECT_EQ(held.Rest().status.error_code(), grpc::StatusCode::CANCELLED);
  // The server learns of it on its own time; then the step that is running is the last.
  EXPECT_TRUE(Eventually([&] { return served.server().num_open_streams() == 0; }));
  served.gate().Allow(1);
  EXPECT_TRUE(Eventually([&] { return served.engine()->Snapshot().running == 0; }));
  EXPECT_EQ(served.engine()->Snapshot().step, 2);
  EXPECT_EQ(served.engine()->Snapshot().free_blocks, served.engine()->Snapshot().total_blocks);
}

TEST(InferenceFlowTest, TheDeadlineStopsTheWorkWithinAStep) {
  // A busy machine may need longer than that to come to the second step.
  for (auto time = std::chrono::seconds(2); time < std::chrono::minutes(2); time *= 2) {
    ServedFake served;
    HeldRequest held(served, std::chrono::system_clock::now() + time);
    EXPECT_EQ(held.Rest().status.error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
    if (!held.held()) continue;
    EXPECT_TRUE(Eventually([&] { return served.server().num_open_streams() == 0; }));
    served.gate().Allow(1);
    EXPECT_TRUE(Eventually([&] { return served.engine()->Snapshot().running == 0; }));
    EXPECT_EQ(served.engine()->Snapshot().step, 2);
    return;
  }
  FAIL() << "the second step never began before the deadline";
}

TEST(InferenceFlowTest, AFullQueueRefusesAndRecovers) {
  ServedFakeOptions options;
  options.engine = {.max_running = 1, .max_queue = 1};
  ServedFake served(options);
  HeldRequest running(served);
  ASSERT_TRUE(running.held());
  const auto stub = served.Inference();
  grpc::ClientContext waiting_context;
  waiting_context.set_deadline(Soon());
  const auto waiting = stub->Generate(&waiting_context, TokenRequest(kPrompt, 3));
  ASSERT_TRUE(Eventually([&] { return served.engine()->Snapshot().waiting == 1; }));
  EXPECT_EQ(Ask(*stub, TokenRequest(kPrompt, 3)).status.error_code(),
            grpc::StatusCode::RESOURCE_EXHAUSTED);
  served.gate().Open();
  EXPECT_TRUE(running.Rest().status.ok());
  EXPECT_TRUE(ReadAll(*waiting).status.ok());
  EXPECT_TRUE(Ask(*stub, TokenRequest(kPrompt, 3)).status.ok());
}

TEST(InferenceFlowTest, ASlowReaderSlowsNobodyAndLosesNothing) {
  constexpr int kTokens = 3000;
  ServedFakeOptions options;
  options.model.max_context = 4000;
  options.model.num_kv_blocks = 2000;
  options.model.vocab_size = 300;
  ServedFake served(options);
  grpc::ChannelArguments small_window;
  small_window.SetInt(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, 1024);
  small_window.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
  const auto slow_stub = v1::Inference::NewStub(served.Channel(small_window));
  v1::GenerateRequest request = TokenRequest({1, 5}, kTokens);
  request.mutable_sampling()->set_ignore_eos(true);
  grpc::ClientContext context;
  context.set_deadline(Soon());
  const auto slow = slow_stub->Generate(&context, request);  // and reads nothing

  const Answer quick = Ask(*served.Inference(), TokenRequest({1, 6}, 50));
  EXPECT_TRUE(quick.status.ok());
  EXPECT_TRUE(Eventually([&] {
    const EngineSnapshot engine = served.engine()->Snapshot();
    return engine.running == 0 && engine.generated_tokens >= kTokens;
  })) << "the engine waits for a reader";

  const Answer answer = ReadAll(*slow);
  EXPECT_TRUE(answer.status.ok()) << answer.status.error_message();
  EXPECT_EQ(answer.tokens, ExpectedTokens({1, 5}, {.max_tokens = kTokens}, served.model()).tokens);
  EXPECT_LT(answer.num_deltas, kTokens) << "what waits comes merged";
}

// A client that asks for an answer and does not read it.
class Unread {
 public:
  explicit Unread(const ServedFake& served) : stub_(v1::Inference::NewStub(Narrow(served))) {
    v1::GenerateRequest request = TokenRequest({1, 5}, 3000);
    request.mutable_sampling()->set_ignore_eos(true);
    context_.set_deadline(Soon());
    reader_ = stub_->Generate(&context_, request);
  }
  Answer Read() { return ReadAll(*reader_); }

 private:
  static std::shared_ptr<grpc::Channel> Narrow(const ServedFake& served) {
    grpc::ChannelArguments small_window;
    small_window.SetInt(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, 1024);
    small_window.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
    return served.Channel(small_window);
  }

  std::unique_ptr<v1::Inference::Stub> stub_;
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReader<v1::GenerateResponse>> reader_;
};

TEST(InferenceFlowTest, CallsThatNobodyReadsAreLimited) {
  ServedFakeOptions options;
  options.model = {.vocab_size = 300, .max_context = 4000, .num_kv_blocks = 4000};
  options.engine = {.max_running = 1, .max_queue = 1};
  ServedFake served(options);
  const auto idle = [&] { return served.engine()->Snapshot().running == 0; };
  std::vector<std::unique_ptr<Unread>> unread;
  for (int i = 1; i <= 4; ++i) {
    unread.push_back(std::make_unique<Unread>(served));
    ASSERT_TRUE(
        Eventually([&] { return served.engine()->Snapshot().generated_tokens == 3000 * i; }));
    ASSERT_TRUE(Eventually(idle));
  }
  EXPECT_EQ(served.server().num_open_streams(), 4);
  const Answer refused = Ask(*served.Inference(), TokenRequest({1, 6}, 3));
  EXPECT_EQ(refused.status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_THAT(refused.status.error_message(), HasSubstr("4 calls are open already"));
  EXPECT_EQ(unread[0]->Read().tokens.size(), 3000);
  EXPECT_TRUE(Eventually([&] { return served.server().num_open_streams() == 3; }));
  EXPECT_TRUE(Ask(*served.Inference(), TokenRequest({1, 6}, 3)).status.ok());
  for (int i = 1; i < 4; ++i) EXPECT_EQ(unread[i]->Read().tokens.size(), 3000);
}

// A tokenizer that turns texts into tokens only once the gate lets it.
StepGate text_gate;

class SlowTokenizer final : public Tokenizer {
 public:
  explicit SlowTokenizer(std::unique_ptr<Tokenizer> base) : base_(std::move(base)) {}
  int32_t vocab_size() const override { return base_->vocab_size(); }
  int32_t bos_token_id() const override { return base_->bos_token_id(); }
  int32_t eos_token_id() const override { return base_->eos_token_id(); }
  std::vector<int32_t> Encode(std::string_view text) const override {
    text_gate.Pass();
    return base_->Encode(text);
  }
  std::string Decode(std::span<const int32_t> ids) const override { return base_->Decode(ids); }

 private:
  std::unique_ptr<Tokenizer> base_;
};

TEST(InferenceFlowTest, TextsThatTakeLongKeepNeitherHealthNorOthersWaiting) {
  constexpr int kTexts = 40;  // more than gRPC has threads
  ServedFakeOptions options;
  options.wrap = [](std::unique_ptr<Tokenizer> base) -> std::unique_ptr<Tokenizer> {
    return std::make_unique<SlowTokenizer>(std::move(base));
  };
  ServedFake served(options);
  text_gate.Close();
  const auto stub = served.Inference();
  v1::GenerateRequest request;
  request.set_text("And it came to pass");
  request.mutable_sampling()->set_max_tokens(3);
  std::vector<std::unique_ptr<grpc::ClientContext>> contexts;
  std::vector<std::unique_ptr<grpc::ClientReader<v1::GenerateResponse>>> readers;
  for (int i = 0; i < kTexts; ++i) {
    contexts.push_back(std::make_unique<grpc::ClientContext>());
    contexts.back()->set_deadline(Soon());
    readers.push_back(stub->Generate(contexts.back().get(), request));
  }
  ASSERT_TRUE(Eventually([&] { return served.server().num_open_streams() == kTexts; }));
  grpc::ClientContext context;
  context.set_deadline(Soon());
  v1::GetLoadResponse load;
  EXPECT_TRUE(served.Control()->GetLoad(&context, {}, &load).ok());
  EXPECT_EQ(load.open_streams(), kTexts);
  EXPECT_EQ(load.engine().waiting() + load.engine().running(), 0) << "no text has become a prompt";
  contexts[kTexts - 1]->TryCancel();  // one leaves before its text was looked at
  EXPECT_EQ(ReadAll(*readers[kTexts - 1]).status.error_code(), grpc::StatusCode::CANCELLED);
  text_gate.Open();
  for (int i = 0; i + 1 < kTexts; ++i) {
    const Answer answer = ReadAll(*readers[i]);
    EXPECT_TRUE(answer.status.ok()) << answer.status.error_message();
  }
}

TEST(InferenceFlowTest, AServerThatFailsSaysWhyInEveryStreamThoughTheEngineIsStuck) {
  ServedFake served;
  HeldRequest held(served);
  ASSERT_TRUE(held.held());
  const auto stub = served.Inference();
  grpc::ClientContext context;
  context.set_deadline(Soon());
  const auto waiting = stub->Generate(&context, TokenRequest(kPrompt, 3));
  ASSERT_TRUE(Eventually([&] { return served.server().num_open_streams() == 2; }));
  served.server().Fail("rank 7 is gone", absl::Minutes(1));
  EXPECT_EQ(served.server().num_open_streams(), 0);
  for (const Answer& answer : {held.Rest(), ReadAll(*waiting), Ask(*stub, TokenRequest({5}, 1))}) {
    EXPECT_EQ(answer.status.error_code(), grpc::StatusCode::UNAVAILABLE);
    EXPECT_EQ(answer.status.error_message(), "rank 7 is gone");
  }
}

TEST(InferenceFlowTest, StreamsHoldNoThreads) {
  constexpr int kStreams = 192;  // far more than gRPC starts threads as it gets busy
  ServedFakeOptions options;
  options.model.num_kv_blocks = 4096;
  ServedFake served(options);
  const auto stub = served.Inference();
  Ask(*stub, TokenRequest(kPrompt, 1));  // gRPC's own threads are there now
  const int before = NumThreads();
  served.gate().Close();
  std::vector<std::unique_ptr<grpc::ClientContext>> contexts;
  std::vector<std::unique_ptr<grpc::ClientReader<v1::GenerateResponse>>> readers;
  for (int i = 0; i < kStreams; ++i) {
    contexts.push_back(std::make_unique<grpc::ClientContext>());
    contexts.back()->set_deadline(Soon());
    readers.push_back(stub->Generate(contexts.back().get(), TokenRequest({1, 300 + i}, 5)));
  }
  ASSERT_TRUE(Eventually([&] { return served.server().num_open_streams() == kStreams; }));
  EXPECT_LT(NumThreads() - before, kStreams / 2);
  served.gate().Open();
  for (int i = 0; i < kStreams; ++i) {
    const SamplingParams sampling = {.max_tokens = 5, .stop_token_ids = {2}};
    EXPECT_EQ(ReadAll(*readers[i]).tokens,
              ExpectedTokens({1, 300 + i}, sampling, served.model()).tokens);
  }
}

TEST(InferenceFlowTest, OpenStreamsEndUnavailableAtShutdown) {
  ServedFake served;
  HeldRequest held(served);
  ASSERT_TRUE(held.held());
  served.server().Drain();
  served.engine()->Shutdown();
  served.gate().Open();
  served.engine().Stop();
  const Answer rest = held.Rest();
  EXPECT_EQ(rest.status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_THAT(rest.completions, IsEmpty());
}

}  // namespace
}  // namespace intermix::testing
