// ServedFake: a whole server in this process, over loopback gRPC, with a fake model whose steps a
// test can hold back.
#pragma once

#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "intermix/v1/control.grpc.pb.h"
#include "intermix/v1/inference.grpc.pb.h"
#include "runtime/rpc/server.h"
#include "runtime/tokenizer/detokenizer.h"
#include "tests/testing/fake_model_runner.h"
#include "tests/testing/running_engine.h"
#include "tests/testing/test_paths.h"

namespace intermix::testing {

// Lets a model's steps pass one by one. Open unless closed.
class StepGate {
 public:
  void Close() {
    const std::lock_guard lock(mutex_);
    open_ = false;
  }
  void Open() {
    const std::lock_guard lock(mutex_);
    open_ = true;
    changed_.notify_all();
  }
  void Allow(int steps) {
    const std::lock_guard lock(mutex_);
    allowed_ += steps;
    changed_.notify_all();
  }
  // Waits until the engine stands at the closed gate. A test failure after four minutes.
  void AwaitWaiting() {
    std::unique_lock lock(mutex_);
    EXPECT_TRUE(changed_.wait_for(lock, std::chrono::minutes(4),
                                  [this] { return waiting_ && allowed_ == 0; }));
  }
  bool waiting() {
    const std::lock_guard lock(mutex_);
    return waiting_ && allowed_ == 0;
  }
  // The model's side.
  void Pass() {
    std::unique_lock lock(mutex_);
    waiting_ = true;
    changed_.notify_all();
    EXPECT_TRUE(
        changed_.wait_for(lock, std::chrono::minutes(4), [this] { return open_ || allowed_ > 0; }));
    if (!open_) --allowed_;
    waiting_ = false;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool open_ = true;
  bool waiting_ = false;
  int allowed_ = 0;
};

inline RpcServerOptions AnyPort() {
  RpcServerOptions options;
  options.listen.port = 0;
  options.listen.port_given = true;
  options.version = "test";
  return options;
}

struct ServedFakeOptions {
  FakeModelOptions model = {.vocab_size = 2048};  // tiny-mixtral's, whose tokenizer is used
  EngineOptions engine;
  RpcServerOptions server = AnyPort();
  std::optional<ChatTemplate> chat_template = {};
  bool open = true;  // whether the model counts as loaded from the start
  std::unique_ptr<Tokenizer> (*wrap)(std::unique_ptr<Tokenizer>) = nullptr;  // its tokenizer
};

class ServedFake {
 public:
  explicit ServedFake(const ServedFakeOptions& options = {})
      : options_(options), runner_(options.model), engine_(options.engine, runner_) {
    auto tokenizer = LoadTokenizer(TestData() + "/tiny-mixtral");
    EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
    tokenizer_ = options.wrap ? options.wrap(*std::move(tokenizer)) : *std::move(tokenizer);
    front_ = {.tokenizer = tokenizer_.get(),
              .bos_token_id = 1,
              .eos_token_ids = {2},
              .chat_template = options.chat_template};
    auto server = RpcServer::Start(options.server);
    EXPECT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    runner_.on_step = [this](const Batch&) { gate_.Pass(); };
    if (options.open) Open();
  }
  ~ServedFake() {
    gate_.Open();
    engine_.Stop();
    server_->Shutdown(absl::ZeroDuration());
    EXPECT_TRUE(runner_.violations().empty()) << runner_.violations()[0];
  }

  void Open() {
    v1::ModelInfo info;
    info.set_name("fake");
    info.set_vocab_size(options_.model.vocab_size);
    info.set_max_context(options_.model.max_context);
    server_->Open(*engine_, options_.engine, front_, info);
    engine_.Start();
  }

  StepGate& gate() { return gate_; }
  RunningEngine& engine() { return engine_; }
  RpcServer& server() { return *server_; }
  const FrontModel& front() const { return front_; }
  const FakeModelOptions& model() const { return options_.model; }

  std::shared_ptr<grpc::Channel> Channel(const grpc::ChannelArguments& args = {}) const {
    return grpc::CreateCustomChannel(server_->address().ToString(),
                                     grpc::InsecureChannelCredentials(), args);
  }
  std::unique_ptr<v1::Inference::Stub> Inference() const {
    return v1::Inference::NewStub(Channel());
  }
  std::unique_ptr<v1::Control::Stub> Control() const { return v1::Control::NewStub(Channel()); }

 private:
  ServedFakeOptions options_;
  StepGate gate_;
  FakeModelRunner runner_;
  std::unique_ptr<Tokenizer> tokenizer_;
  FrontModel front_;
  std::unique_ptr<RpcServer> server_;
  RunningEngine engine_;
};

// A bound on what a test waits for.
inline std::chrono::system_clock::time_point Soon() {
  return std::chrono::system_clock::now() + std::chrono::minutes(4);
}

inline v1::GenerateRequest TokenRequest(const std::vector<int32_t>& prompt, uint32_t max_tokens) {
  v1::GenerateRequest request;
  request.mutable_token_ids()->mutable_ids()->Add(prompt.begin(), prompt.end());
  request.mutable_sampling()->set_max_tokens(max_tokens);
  return request;
}

// All that a client sees of one request.
struct Answer {
  std::vector<int32_t> tokens;
  std::string text;
  std::vector<v1::TokenLogprobs> logprobs;
  std::vector<v1::TokenLogprobs> prompt_logprobs;
  int num_deltas = 0;
  std::vector<v1::Completion> completions;
  bool delta_after_completion = false;
  grpc::Status status;
};

inline void Take(const v1::GenerateResponse& response, Answer& answer) {
  if (response.has_completion()) {
    answer.completions.push_back(response.completion());
    return;
  }
  answer.delta_after_completion |= !answer.completions.empty();
  ++answer.num_deltas;
  const v1::Delta& delta = response.delta();
  answer.tokens.insert(answer.tokens.end(), delta.token_ids().begin(), delta.token_ids().end());
  answer.text += delta.text();
  answer.logprobs.insert(answer.logprobs.end(), delta.logprobs().begin(), delta.logprobs().end());
  answer.prompt_logprobs.insert(answer.prompt_logprobs.end(), delta.prompt_logprobs().begin(),
                                delta.prompt_logprobs().end());
}

inline Answer ReadAll(grpc::ClientReader<v1::GenerateResponse>& reader) {
  Answer answer;
  v1::GenerateResponse response;
  while (reader.Read(&response)) Take(response, answer);
  answer.status = reader.Finish();
  return answer;
}

inline Answer Ask(v1::Inference::Stub& stub, const v1::GenerateRequest& request) {
  grpc::ClientContext context;
  context.set_deadline(Soon());
  return ReadAll(*stub.Generate(&context, request));
}

}  // namespace intermix::testing
