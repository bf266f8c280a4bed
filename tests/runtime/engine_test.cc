// Engine: how requests begin, end and fail, on a fake model.
#include "runtime/engine/engine.h"

#include <algorithm>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/fake_model_runner.h"
#include "tests/testing/running_engine.h"

namespace intermix {
namespace {

using ::intermix::testing::Collect;
using ::intermix::testing::Collected;
using ::intermix::testing::Expected;
using ::intermix::testing::ExpectedTokens;
using ::intermix::testing::FakeModelOptions;
using ::intermix::testing::FakeModelRunner;
using ::intermix::testing::RunningEngine;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

const std::vector<int32_t> kPrompt = {3, 1, 4, 1, 5};

TEST(EngineTest, GivesTheTokensThatTheModelSays) {
  FakeModelRunner runner({});
  RunningEngine engine({}, runner);
  engine.Start();
  const SamplingParams sampling = {.max_tokens = 20};
  const Collected got = Collect(**engine->Submit({.prompt = kPrompt, .sampling = sampling}));
  engine.Stop();
  EXPECT_EQ(got.tokens, ExpectedTokens(kPrompt, sampling, {}).tokens);
  EXPECT_TRUE(got.end.status.ok());
  EXPECT_EQ(got.end.reason, FinishReason::kLength);
  EXPECT_FALSE(got.end.stop_token_id.has_value());
  EXPECT_EQ(got.end.usage.prompt_tokens, 5);
  EXPECT_EQ(got.end.usage.completion_tokens, 20);
  EXPECT_THAT(runner.violations(), IsEmpty());
  EXPECT_EQ(runner.batches().size(), 20) << "the last token is not fed back";
}

TEST(EngineTest, CountsWhatItDid) {
  FakeModelRunner runner({});
  RunningEngine engine({}, runner);
  EXPECT_EQ(engine->Snapshot().total_blocks, 64);
  EXPECT_EQ(engine->Snapshot().free_blocks, 64);
  const auto stream = engine->Submit({.prompt = kPrompt, .sampling = {.max_tokens = 4}});
  EXPECT_EQ(engine->Snapshot().waiting, 1);
  engine.Start();
  Collect(**stream);
  // Who has seen the end finds the blocks given back.
  const EngineSnapshot snapshot = engine->Snapshot();
  EXPECT_EQ(snapshot.running, 0);
  EXPECT_EQ(snapshot.waiting, 0);
  EXPECT_EQ(snapshot.free_blocks, 64);
  EXPECT_EQ(snapshot.prompt_tokens, 5);
  EXPECT_EQ(snapshot.generated_tokens, 4);
  EXPECT_EQ(snapshot.step, 4);
}

// What a step said is told while the next one runs: ranks do not wait for it.
TEST(EngineTest, AStepIsDeliveredWhileTheNextOneRuns) {
  FakeModelRunner runner({});
  RunningEngine engine({}, runner);
  const auto stream = *engine->Submit({.prompt = kPrompt, .sampling = {.max_tokens = 6}});
  runner.on_start = [&](const Batch& batch) {
    EXPECT_EQ(stream->unread(), std::max<size_t>(batch.step, 1) - 1);
  };
  runner.on_step = [&](const Batch& batch) { EXPECT_EQ(stream->unread(), batch.step); };
  engine.Start();
  while (engine->Snapshot().reached_length == 0) absl::SleepFor(absl::Milliseconds(1));
  EXPECT_EQ(Collect(*stream).tokens.size(), 6);
  engine.Stop();
}

TEST(EngineTest, AStopTokenEndsTheRequestAndIsNotDelivered) {
  const std::vector<int32_t> full = ExpectedTokens(kPrompt, {.max_tokens = 20}, {}).tokens;
  FakeModelRunner runner({});
  RunningEngine engine({}, runner);
  engine.Start();
  const SamplingParams sampling = {.max_tokens = 20, .stop_token_ids = {full[7], full[5]}};
  const Collected got = Collect(**engine->Submit({.prompt = kPrompt, .sampling = sampling}));
  EXPECT_EQ(got.tokens, std::vector<int32_t>(full.begin(), full.begin() + 5));
  EXPECT_EQ(got.end.reason, FinishReason::kStop);
  EXPECT_EQ(got.end.stop_token_id, full[5]);
  EXPECT_EQ(got.end.usage.completion_tokens, 5);

  const Collected at_once =
      Collect(**engine->Submit({.prompt = kPrompt, .sampling = {.stop_token_ids = {full[0]}}}));
  EXPECT_THAT(at_once.tokens, IsEmpty());
  EXPECT_EQ(at_once.end.stop_token_id, full[0]);
}

TEST(EngineTest, AnswersOneRequestSeveralTimes) {
  FakeModelRunner runner({});
  RunningEngine engine({}, runner);
  engine.Start();
  const SamplingParams sampling = {.temperature = 1.0f, .seed = 3, .prompt_logprobs = 1};
  const auto streams = engine->SubmitChoices({.prompt = kPrompt, .sampling = sampling}, 3);
  ASSERT_EQ(streams->size(), 3);
  for (int32_t choice = 0; choice < 3; ++choice) {
    const Collected got = Collect(*(*streams)[choice]);
    EXPECT_EQ(got.tokens, ExpectedTokens(kPrompt, sampling, {}, choice).tokens);
    EXPECT_EQ(got.prompt_logprobs.size(), choice == 0 ? kPrompt.size() - 1 : 0);
  }
}

TEST(EngineTest, SeveralAnswersShareTheirPromptsBlocks) {
  FakeModelRunner runner({});
  RunningEngine engine({}, runner);
  engine.Start();
  const std::vector<int32_t> prompt(41, 7);  // ten full blocks and a token
  const SamplingParams sampling = {.temperature = 1.0f, .seed = 3, .max_tokens = 8};
  const auto streams = engine->SubmitChoices({.prompt = prompt, .sampling = sampling}, 4);
  for (int32_t choice = 0; choice < 4; ++choice) {
    EXPECT_EQ(Collect(*(*streams)[choice]).tokens,
              ExpectedTokens(prompt, sampling, {}, choice).tokens);
  }
  engine.Stop();
  EXPECT_EQ(engine->Snapshot().prefix_hit_tokens, 3 * 40);
  EXPECT_EQ(engine->Snapshot().free_blocks, 64);
  EXPECT_THAT(runner.violations(), IsEmpty());
}

TEST(EngineTest, QueuesAllAnswersOrNone) {
  FakeModelRunner runner({});
  RunningEngine engine({.max_queue = 4}, runner);
  const auto code = [&](int32_t n) {
    return engine->SubmitChoices({.prompt = kPrompt}, n).status().code();
  };
  EXPECT_EQ(code(0), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code(5), absl::StatusCode::kInvalidArgument) << "it could never be queued";
  EXPECT_EQ(code(3), absl::StatusCode::kOk);
  EXPECT_EQ(code(2), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(engine->Snapshot().waiting, 3);
  EXPECT_EQ(code(1), absl::StatusCode::kOk);
}

TEST(EngineTest, EndsWithLengthAtTheContextsEnd) {
  const FakeModelOptions model = {.max_context = 12};
  FakeModelRunner runner(model);
  RunningEngine engine({}, runner);
  engine.Start();
  const Collected got =
      Collect(**engine->Submit({.prompt = kPrompt, .sampling = {.max_tokens = 1000}}));
  engine.Stop();
  EXPECT_EQ(got.tokens.size(), 7);
  EXPECT_EQ(got.tokens, ExpectedTokens(kPrompt, {.max_tokens = 1000}, model).tokens);
  EXPECT_EQ(got.end.reason, FinishReason::kLength);
  EXPECT_THAT(runner.violations(), IsEmpty());
}

TEST(EngineTest, RefusesBadRequestsAtOnce) {
  FakeModelRunner runner({.vocab_size = 50, .max_context = 100, .num_kv_blocks = 5});
  RunningEngine engine({}, runner);
  const auto message = [&](GenerateRequest request) {
    const absl::Status status = engine->Submit(std::move(request)).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    return std::string(status.message());
  };
  EXPECT_THAT(message({.prompt = {}}), HasSubstr("the prompt is empty"));
  EXPECT_THAT(message({.prompt = {1, 50}}), HasSubstr("prompt token 1 is 50"));
  EXPECT_THAT(message({.prompt = {-1}}), HasSubstr("ids 0 to 49"));
  EXPECT_THAT(message({.prompt = {1}, .sampling = {.top_p = 0.0f}}), HasSubstr("top_p"));
  EXPECT_THAT(message({.prompt = std::vector<int32_t>(100, 1)}), HasSubstr("a context of 100"));
  EXPECT_THAT(message({.prompt = {1}, .sampling = {.max_tokens = 21}}),
              HasSubstr("the whole cache has 5"));
  EXPECT_THAT(message({.prompt = {1}, .priority = 1001}), HasSubstr("priority is 1001"));
  EXPECT_THAT(message({.prompt = {1}, .cache_salt = std::string(257, 's')}),
              HasSubstr("cache_salt has 257 bytes"));
  EXPECT_TRUE(engine->Submit({.prompt = {1}, .sampling = {.max_tokens = 20}}).ok());
}

TEST(EngineTest, RefusesMoreThanTheQueueHolds) {
  FakeModelRunner runner({});
  RunningEngine engine({.max_queue = 3}, runner);
  std::vector<std::shared_ptr<RequestStream>> streams;
  for (int i = 0; i < 3; ++i) {
    streams.push_back(*engine->Submit({.prompt = kPrompt, .sampling = {.max_tokens = 2}}));
  }
  const absl::Status refused = engine->Submit({.prompt = kPrompt}).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(refused.message(), HasSubstr("3 requests wait already"));
  engine.Start();
  for (const auto& stream : streams) EXPECT_EQ(Collect(*stream).tokens.size(), 2);
  EXPECT_TRUE(engine->Submit({.prompt = kPrompt}).ok()) << "there is room again";
}

TEST(EngineTest, ACancelledRequestIsGoneFromTheNextStep) {
  FakeModelRunner runner({});
  RunningEngine engine({}, runner);
  const SamplingParams sampling = {.max_tokens = 30};
  const auto cancelled = *engine->Submit({.prompt = kPrompt, .sampling = sampling});
  const auto other = *engine->Submit({.prompt = {9, 9}, .sampling = sampling});
  runner.on_step = [&](const Batch& batch) {
    if (batch.step == 4) cancelled->Cancel();
  };
  engine.Start();
  const Collected got = Collect(*cancelled);
  const Collected rest = Collect(*other);
  engine.Stop();
  EXPECT_EQ(got.end.status.code(), absl::StatusCode::kCancelled);
  EXPECT_FALSE(got.end.reason.has_value());
  EXPECT_EQ(got.tokens.size(), 5) << "steps 0 to 4";
  EXPECT_EQ(got.end.usage.completion_tokens, 5);
  EXPECT_EQ(rest.tokens, ExpectedTokens({9, 9}, sampling, {}).tokens);
  EXPECT_EQ(runner.batches()[4].chunks.size(), 2);
  EXPECT_EQ(runner.batches()[5].chunks.size(), 1);
  EXPECT_EQ(engine->Snapshot().free_blocks, 64);
}

// A stop string is the reader's to find.
TEST(EngineTest, ARequestWhoseReaderHasEnoughCountsAsStopped) {
  FakeModelRunner runner({});
  RunningEngine engine({}, runner);
  std::shared_ptr<RequestStream> stream;
  runner.on_step = [&](const Batch& batch) {
    if (batch.step == 4) stream->HasEnough();
    if (batch.step == 4) stream->Cancel();  // too late to count
  };
  stream = *engine->Submit({.prompt = kPrompt, .sampling = {.max_tokens = 100}});
  engine.Start();
  const Collected got = Collect(*stream);
  engine.Stop();
  EXPECT_TRUE(got.end.status.ok()) << got.end.status;
  EXPECT_EQ(got.end.reason, FinishReason::kStop);
  EXPECT_EQ(runner.batches().size(), 5) << "it is gone from the next step";
  EXPECT_EQ(engine->Snapshot().stopped, 1);
  EXPECT_EQ(engine->Snapshot().failed, 0);
}

TEST(EngineTest, AWaitingRequestCanBeCancelled) {
  FakeModelRunner runner({});
  RunningEngine engine({.max_running = 1}, runner);
  const auto running = *engine->Submit({.prompt = kPrompt, .sampling = {.max_tokens = 30}});
  const auto waiting = *engine->Submit({.prompt = kPrompt, .sampling = {.max_tokens = 30}});
  runner.on_step = [&](const Batch& batch) {
    if (batch.step == 3) waiting->Cancel();
  };
  engine.Start();
  const Collected got = Collect(*waiting);
  EXPECT_EQ(got.end.status.code(), absl::StatusCode::kCancelled);
  EXPECT_THAT(got.tokens, IsEmpty());
  EXPECT_EQ(Collect(*running).tokens.size(), 30);
}

TEST(EngineTest, ADeadlineEndsTheRequestWithinOneStep) {
  FakeModelRunner runner({});
  RunningEngine engine({}, runner);
  const SamplingParams sampling = {.max_tokens = 100};
  const absl::Time deadline = absl::Now() + absl::Milliseconds(50);
  // Step 3 lasts until the deadline has passed.
  runner.on_step = [&](const Batch& batch) {
    if (batch.step == 3) absl::SleepFor(deadline - absl::Now() + absl::Milliseconds(1));
  };
  engine.Start();
  const auto late = *engine->Submit(
      {.prompt = kPrompt, .sampling = sampling, .deadline = absl::Now() - absl::Seconds(1)});
  EXPECT_EQ(Collect(*late).end.status.code(), absl::StatusCode::kDeadlineExceeded);
  const auto stream =
      *engine->Submit({.prompt = kPrompt, .sampling = sampling, .deadline = deadline});
  const Collected got = Collect(*stream);
  engine.Stop();
  EXPECT_EQ(got.end.status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT(got.end.status.message(), HasSubstr("deadline passed after"));
  EXPECT_LE(got.tokens.size(), 4);
  EXPECT_LE(runner.batches().size(), 4) << "no step follows the one in which it passed";
}

TEST(EngineTest, ShutdownEndsRunningAndWaitingStreams) {
  FakeModelRunner runner({});
  RunningEngine engine({.max_running = 1}, runner);
  const auto running = *engine->Submit({.prompt = kPrompt, .sampling = {.max_tokens = 100}});
  const auto waiting = *engine->Submit({.prompt = kPrompt, .sampling = {.max_tokens = 100}});
  runner.on_step = [&](const Batch& batch) {
    if (batch.step == 2) engine->Shutdown();
  };
  engine.Start();
  const Collected first = Collect(*running);
  const Collected second = Collect(*waiting);
  engine.Stop();
  EXPECT_EQ(first.end.status.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(first.tokens.size(), 3);
  EXPECT_EQ(second.end.status.code(), absl::StatusCode::kUnavailable);
  EXPECT_TRUE(runner.stopped());
  EXPECT_EQ(runner.batches().size(), 3);
  EXPECT_THAT(runner.violations(), IsEmpty());
  EXPECT_EQ(engine->Submit({.prompt = kPrompt}).status().code(), absl::StatusCode::kUnavailable);
}

TEST(EngineTest, ShutdownWakesAnIdleEngineAndStopsTheOtherRanks) {
  FakeModelRunner runner({});
  RunningEngine engine({}, runner);
  engine.Start();
  engine.Stop();
  EXPECT_TRUE(runner.stopped());
  EXPECT_THAT(runner.batches(), IsEmpty());
}

TEST(EngineTest, AnEngineThatNeverRanEndsItsStreams) {
  FakeModelRunner runner({});
  std::shared_ptr<RequestStream> stream;
  {
    Engine engine({}, runner);
    stream = *engine.Submit({.prompt = kPrompt});
  }
  EXPECT_EQ(Collect(*stream).end.status.code(), absl::StatusCode::kUnavailable);
}

TEST(EngineTest, NanLogitsFailTheirRequestAlone) {
  const SamplingParams sampling = {.max_tokens = 30};
  const std::vector<int32_t> sound = {2, 7, 1, 8};
  const Expected expected = ExpectedTokens(sound, sampling, {});
  // A token that the other request ends its prompt with and that this one never reads.
  int32_t nan_token = 0;
  while (std::count(expected.tokens.begin(), expected.tokens.end(), nan_token) ||
         std::count(sound.begin(), sound.end(), nan_token)) {
    ++nan_token;
  }
  FakeModelRunner runner({.nan_token = nan_token});
  RunningEngine engine({}, runner);
  const auto bad = *engine->Submit({.prompt = {5, nan_token}, .sampling = sampling});
  const auto good = *engine->Submit({.prompt = sound, .sampling = sampling});
  engine.Start();
  const Collected failed = Collect(*bad);
  EXPECT_EQ(failed.end.status.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(failed.end.status.message(), HasSubstr("the model produced NaN logits"));
  EXPECT_THAT(failed.tokens, IsEmpty());
  EXPECT_EQ(Collect(*good).tokens, expected.tokens);
  EXPECT_EQ(engine->Snapshot().free_blocks, 64);
}

TEST(EngineTest, ARequestWithoutAReaderDoesNotHoldUpOthers) {
  FakeModelRunner runner({});
  RunningEngine engine({}, runner);
  const auto unread = *engine->Submit({.prompt = kPrompt, .sampling = {.max_tokens = 50}});
  engine.Start();
  EXPECT_EQ(
      Collect(**engine->Submit({.prompt = {6}, .sampling = {.max_tokens = 100}})).tokens.size(),
      100);
  EXPECT_EQ(Collect(*unread).tokens.size(), 50) << "it kept everything for a late reader";
}

TEST(EngineTest, AStreamThatIsNotReadEndsBeforeItFillsTheMemory) {
  FakeModelRunner runner({});
  RunningEngine engine({.max_unread = 10}, runner);
  const SamplingParams sampling = {.max_tokens = 100};
  const auto unread = *engine->Submit({.prompt = kPrompt, .sampling = sampling});
  const auto exact = *engine->Submit({.prompt = {6}, .sampling = {.max_tokens = 10}});
  runner.on_step = [&](const Batch& batch) { EXPECT_LT(batch.step, 12); };
  engine.Start();
  EXPECT_EQ(Collect(*exact).tokens.size(), 10);
  // Nobody reads the first one until the engine has nothing to do.
  while (engine->Snapshot().running > 0) absl::SleepFor(absl::Milliseconds(1));
  const Collected got = Collect(*unread);
  EXPECT_EQ(got.end.status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(got.end.status.message(), HasSubstr("11 tokens wait for it"));
  EXPECT_EQ(got.tokens.size(), 11);
  EXPECT_EQ(engine->Snapshot().free_blocks, 64);
}

TEST(EngineOptionsTest, NamesTheFieldThatIsOutOfRange) {
  EXPECT_TRUE(EngineOptions().Validate().ok());
  EXPECT_THAT(EngineOptions{.max_batch_tokens = 0}.Validate().message(),
              HasSubstr("max_batch_tokens is 0"));
  EXPECT_THAT(EngineOptions{.max_running = -1}.Validate().message(), HasSubstr("max_running"));
  EXPECT_THAT(EngineOptions{.priority_ageing = absl::ZeroDuration()}.Validate().message(),
              HasSubstr("priority_ageing is 0"));
  EXPECT_THAT(EngineOptions{.max_unread = 0}.Validate().message(), HasSubstr("max_unread"));
  EXPECT_THAT(EngineOptions{.max_queue = 0}.Validate().message(), HasSubstr("max_queue"));
}

}  // namespace
}  // namespace intermix
