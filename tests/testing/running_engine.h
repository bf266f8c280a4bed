// RunningEngine: an Engine with its thread, for tests; and Collect, which reads a stream to its
// end.
#pragma once

#include <thread>
#include <vector>

#include "absl/time/clock.h"
#include "gtest/gtest.h"
#include "runtime/engine/engine.h"

namespace intermix::testing {

class RunningEngine {
 public:
  RunningEngine(const EngineOptions& options, ModelRunner& runner) : engine_(options, runner) {}
  ~RunningEngine() { Stop(); }

  void Start() {
    thread_ = std::thread([this] { engine_.Run(); });
  }
  // Shuts down and waits for Run to return.
  void Stop() {
    engine_.Shutdown();
    if (thread_.joinable()) thread_.join();
  }

  Engine& operator*() { return engine_; }
  Engine* operator->() { return &engine_; }

 private:
  Engine engine_;
  std::thread thread_;
};

struct Collected {
  std::vector<int32_t> tokens;
  std::vector<TokenLogprobs> logprobs;
  std::vector<TokenLogprobs> prompt_logprobs;
  TokenDelta end;  // the finished delta; what it brings is among the above
};

// All of a stream. A test failure where it does not end within a minute of silence.
inline Collected Collect(RequestStream& stream) {
  Collected collected;
  do {
    collected.end = stream.Next(absl::Now() + absl::Minutes(1));
    if (collected.end.empty()) {
      ADD_FAILURE() << "the stream is silent";
      return collected;
    }
    const auto append = [](const auto& from, auto& to) {
      to.insert(to.end(), from.begin(), from.end());
    };
    append(collected.end.tokens, collected.tokens);
    append(collected.end.logprobs, collected.logprobs);
    append(collected.end.prompt_logprobs, collected.prompt_logprobs);
  } while (!collected.end.finished);
  return collected;
}

}  // namespace intermix::testing
