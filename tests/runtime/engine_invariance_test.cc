// The engine's promise: a request's tokens do not depend on its company, on how its prompt is cut,
// on preemption, or on when it arrives; and every block comes back.
#include <algorithm>
#include <map>
#include <random>
#include <string>
#include <thread>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/fake_model_runner.h"
#include "tests/testing/running_engine.h"

namespace intermix {
namespace {

using ::intermix::testing::Collect;
using ::intermix::testing::Collected;
using ::intermix::testing::Expected;
using ::intermix::testing::ExpectedPromptLogprobs;
using ::intermix::testing::ExpectedTokens;
using ::intermix::testing::FakeModelOptions;
using ::intermix::testing::FakeModelRunner;
using ::intermix::testing::RunningEngine;
using ::testing::IsEmpty;

GenerateRequest RandomRequest(std::mt19937& random, int32_t vocab_size) {
  GenerateRequest request;
  request.prompt.resize(1 + random() % 40);
  // Many prompts begin like others, so that they find their prefixes in the cache.
  const int32_t begin = static_cast<int32_t>(random() % 3);
  const size_t alike = random() % 40;
  for (size_t i = 0; i < request.prompt.size(); ++i) {
    request.prompt[i] = static_cast<int32_t>(i < alike ? begin : random() % vocab_size);
  }
  request.cache_salt = std::string(random() % 2, 's');
  request.priority = static_cast<int32_t>(random() % 5) - 2;
  SamplingParams& sampling = request.sampling;
  sampling.max_tokens = 1 + static_cast<int32_t>(random() % 30);
  sampling.temperature = random() % 2 ? 0.5f + 0.25f * static_cast<float>(random() % 4) : 0.0f;
  sampling.top_k = random() % 2 ? static_cast<int32_t>(random() % 30) : 0;
  sampling.top_p = random() % 2 ? 0.9f : 1.0f;
  sampling.seed = random();
  const auto token = [&] { return static_cast<int32_t>(random() % vocab_size); };
  if (random() % 2) sampling.stop_token_ids = {token()};
  if (random() % 4 == 0) sampling.min_p = 0.1f;
  if (random() % 4 == 0) sampling.repetition_penalty = 1.5f;
  if (random() % 4 == 0) sampling.presence_penalty = 1.0f;
  if (random() % 4 == 0) sampling.frequency_penalty = 0.75f;
  if (random() % 4 == 0) sampling.logit_bias = {{token(), 4.0f}, {token(), 4.0f}};
  if (random() % 4 == 0) sampling.bad_token_ids = {token(), token()};
  if (random() % 8 == 0) sampling.allowed_token_ids = {1, 2, 3, 5, 8, 13, 21, 34, 55, 89};
  if (random() % 4 == 0) sampling.min_tokens = sampling.max_tokens / 2;
  if (random() % 3 == 0) sampling.logprobs = random() % 5;
  if (random() % 3 == 0) sampling.prompt_logprobs = random() % 5;
  if (!sampling.Validate(vocab_size).ok()) sampling.allowed_token_ids.clear();
  return request;
}

struct Setting {
  std::string name;
  EngineOptions engine;
  FakeModelOptions model;
  bool preempts = false;  // it is small enough that this must happen

  friend void PrintTo(const Setting& setting, std::ostream* os) { *os << setting.name; }
};

class EngineInvarianceTest : public ::testing::TestWithParam<Setting> {};

TEST_P(EngineInvarianceTest, EveryRequestGetsTheTokensItGetsAlone) {
  const Setting& setting = GetParam();
  std::mt19937 random(17);
  FakeModelOptions model = setting.model;
  model.max_batch_tokens = setting.engine.max_batch_tokens;
  FakeModelRunner runner(model);
  RunningEngine engine(setting.engine, runner);
  std::vector<GenerateRequest> requests;
  std::vector<std::shared_ptr<RequestStream>> streams;
  for (int i = 0; i < 40; ++i) {
    requests.push_back(RandomRequest(random, model.vocab_size));
    streams.push_back(*engine->Submit(requests.back()));
  }
  engine.Start();
  for (size_t i = 0; i < requests.size(); ++i) {
    const Collected got = Collect(*streams[i]);
    const Expected expected = ExpectedTokens(requests[i].prompt, requests[i].sampling, model);
    EXPECT_EQ(got.tokens, expected.tokens) << "request " << i;
    EXPECT_EQ(got.logprobs, expected.logprobs) << "request " << i;
    if (const auto& top = requests[i].sampling.prompt_logprobs; top.has_value()) {
      EXPECT_EQ(got.prompt_logprobs, ExpectedPromptLogprobs(requests[i].prompt, *top, model));
    } else {
      EXPECT_THAT(got.prompt_logprobs, IsEmpty());
    }
    EXPECT_EQ(got.end.reason, expected.stopped ? FinishReason::kStop : FinishReason::kLength);
  }
  const EngineSnapshot snapshot = engine->Snapshot();
  engine.Stop();
  EXPECT_EQ(snapshot.free_blocks, snapshot.total_blocks);
  EXPECT_EQ(snapshot.preemptions > 0, setting.preempts) << snapshot.preemptions;
  const bool fills_blocks = model.block_size < 50;
  EXPECT_EQ(snapshot.prefix_hit_tokens > 0, setting.engine.prefix_caching && fills_blocks);
  EXPECT_THAT(runner.violations(), IsEmpty());
}

INSTANTIATE_TEST_SUITE_P(
    Settings, EngineInvarianceTest,
    ::testing::Values(
        Setting{"Alone", {.max_running = 1}, {}},
        Setting{"AllTogether", {.max_running = 64}, {.num_kv_blocks = 1000}},
        Setting{"WithoutPrefixCache", {.prefix_caching = false}, {.num_kv_blocks = 1000}},
        Setting{"TinyWithoutPrefixCache",
                {.max_batch_tokens = 16, .prefix_caching = false},
                {.num_kv_blocks = 18},
                true},
        Setting{"OneTokenAStep", {.max_batch_tokens = 1}, {}},
        Setting{"SmallChunks", {.max_batch_tokens = 7}, {.num_kv_blocks = 1000}},
        Setting{"OddBlocks", {.max_batch_tokens = 33}, {.num_kv_blocks = 900, .block_size = 3}},
        Setting{"OneTokenBlocks",
                {.max_batch_tokens = 20},
                {.num_kv_blocks = 99, .block_size = 1},
                true},
        Setting{"LargeBlocks", {.max_batch_tokens = 64}, {.num_kv_blocks = 50, .block_size = 128}},
        Setting{"TinyCache", {.max_batch_tokens = 16}, {.num_kv_blocks = 18}, true},
        Setting{"TinyCacheLongSteps", {.max_batch_tokens = 512}, {.num_kv_blocks = 22}, true},
        Setting{"TwoGroups", {.max_batch_tokens = 24}, {.num_dp_groups = 2, .num_kv_blocks = 500}},
        Setting{"FourTinyGroups",
                {.max_batch_tokens = 64},
                {.num_dp_groups = 4, .num_kv_blocks = 18},
                true}),
    [](const auto& instance) { return instance.param.name; });

// Where the likeliest tokens of a step suffice for all of its sequences, only they are asked for;
// no token depends on it.
TEST(EngineLikeliestTest, GreedyAndTopKRequestsAreServedFromTheLikeliest) {
  for (const int32_t blocks : {1000, 18}) {  // the latter preempts
    const FakeModelOptions model = {.num_kv_blocks = blocks};
    FakeModelRunner runner(model);
    RunningEngine engine({.max_batch_tokens = 24}, runner);
    std::mt19937 random(29);
    std::vector<GenerateRequest> requests(24);
    std::vector<std::shared_ptr<RequestStream>> streams;
    for (size_t i = 0; i < requests.size(); ++i) {
      requests[i].prompt = {static_cast<int32_t>(random() % 101), static_cast<int32_t>(i)};
      requests[i].sampling = {.temperature = i % 3 == 0 ? 0.0f : 0.8f,
                              .top_k = static_cast<int32_t>(i % 3 * 31),
                              .top_p = i % 4 == 0 ? 0.9f : 1.0f,
                              .min_p = i % 5 == 0 ? 0.02f : 0.0f,
                              .seed = random(),
                              .max_tokens = 20};
    }
    requests.back().sampling.presence_penalty = 0.5f;  // it needs all logits, and so do its company
    requests.back().sampling.max_tokens = 4;
    for (const GenerateRequest& request : requests) streams.push_back(*engine->Submit(request));
    engine.Start();
    for (size_t i = 0; i < requests.size(); ++i) {
      EXPECT_EQ(Collect(*streams[i]).tokens,
                ExpectedTokens(requests[i].prompt, requests[i].sampling, model).tokens)
          << "request " << i;
    }
    engine.Stop();
    std::map<int32_t, int> steps;
    for (const Batch& batch : runner.batches()) {
      if (batch.num_logits_rows() > 0) ++steps[batch.likeliest];
    }
    EXPECT_GE(steps[0], 4);
    EXPECT_LT(steps[0], 12);
    EXPECT_GT(steps[62], 10);
    EXPECT_EQ(engine->Snapshot().preemptions > 0, blocks == 18);
    EXPECT_THAT(runner.violations(), IsEmpty());
  }
}

// Clients come and go at random from several threads, with a cache that is far too small.
class EngineSoakTest : public ::testing::TestWithParam<uint32_t> {
 protected:
  // One client: submits, then reads to the end, cancels at some token, or walks away.
  void Client(Engine& engine, uint32_t seed) {
    std::mt19937 random(seed);
    for (int i = 0; i < 15; ++i) {
      GenerateRequest request = RandomRequest(random, model_.vocab_size);
      if (random() % 8 == 0) {
        request.deadline = absl::Now() + absl::Microseconds(random() % 5000);
      }
      auto stream = engine.Submit(request);
      // Again and again, or nearly all are refused where the engine has to wait for a CPU.
      for (int tries = 0; tries < 60000 && !stream.ok(); ++tries) {
        EXPECT_EQ(stream.status().code(), absl::StatusCode::kResourceExhausted);
        absl::SleepFor(absl::Milliseconds(1));
        stream = engine.Submit(request);
      }
      ASSERT_TRUE(stream.ok()) << stream.status();
      if (random() % 4 == 0) {
        if (random() % 2) (*stream)->Next(absl::Now() + absl::Milliseconds(random() % 3));
        (*stream)->Cancel();
        if (random() % 2) continue;
        Check(**stream, request, {absl::StatusCode::kCancelled});
      } else {
        Check(**stream, request, {});
      }
    }
  }

  // What arrived is what the request gets alone, or its beginning where it was cut short.
  void Check(RequestStream& stream, const GenerateRequest& request,
             std::vector<absl::StatusCode> also_allowed) {
    const Collected got = Collect(stream);
    const Expected expected = ExpectedTokens(request.prompt, request.sampling, model_);
    if (got.end.status.ok()) {
      const size_t completion = static_cast<size_t>(got.end.usage.completion_tokens);
      EXPECT_EQ(completion, expected.tokens.size());
    } else {
      if (request.deadline != absl::InfiniteFuture()) {
        also_allowed.push_back(absl::StatusCode::kDeadlineExceeded);
      }
      EXPECT_THAT(also_allowed, ::testing::Contains(got.end.status.code())) << got.end.status;
    }
    // A client that read before it cancelled has a part of the tokens only; all are consecutive.
    const auto found = std::search(expected.tokens.begin(), expected.tokens.end(),
                                   got.tokens.begin(), got.tokens.end());
    EXPECT_TRUE(got.tokens.empty() || found != expected.tokens.end());
  }

  const FakeModelOptions model_ = {.num_dp_groups = 2, .num_kv_blocks = 19, .max_batch_tokens = 24};
};

TEST_P(EngineSoakTest, ClientsGetTheirTokensAndEveryBlockComesBack) {
  FakeModelRunner runner(model_);
  RunningEngine engine({.max_batch_tokens = 24, .max_running = 10, .max_queue = 6}, runner);
  engine.Start();
  std::vector<std::thread> clients;
  for (uint32_t i = 0; i < 12; ++i) {
    clients.emplace_back([&, i] { Client(*engine, 1000 * GetParam() + i); });
  }
  for (std::thread& client : clients) client.join();
  // The cancelled requests that nobody read may still be there: one more request sees them out.
  const auto last = engine->Submit({.prompt = {1}, .sampling = {.max_tokens = 40}});
  if (last.ok()) Collect(**last);
  engine.Stop();
  const EngineSnapshot snapshot = engine->Snapshot();
  EXPECT_EQ(snapshot.running + snapshot.waiting, 0);
  EXPECT_EQ(snapshot.free_blocks, snapshot.total_blocks);
  EXPECT_GT(snapshot.generated_tokens, 100);
  EXPECT_THAT(runner.violations(), IsEmpty());
}

INSTANTIATE_TEST_SUITE_P(Seeds, EngineSoakTest, ::testing::Range(0u, 4u));

}  // namespace
}  // namespace intermix
