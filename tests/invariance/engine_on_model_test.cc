// The promise through the whole engine, on a real model: a request's tokens and log probabilities
// are the same bits whether it runs alone, among others, is preempted and resumed, or finds its
// prefix in the cache; on one rank or two.
#include <random>

#include "gtest/gtest.h"
#include "runtime/engine/rank.h"
#include "tests/testing/run_ranks.h"
#include "tests/testing/running_engine.h"
#include "tests/testing/test_paths.h"

namespace intermix {
namespace {

using testing::Collect;
using testing::Collected;
using testing::RunningEngine;

constexpr int32_t kVocab = 2048;
// K and V of 4 layers with 4 heads, 16 positions of 32 elements.
int64_t BlockBytes(DType kv_dtype) {
  return 2 * 4 * 4 * 16 * (kv_dtype == DType::kI8 ? 32 + 4 : 2 * 32);
}

RankOptions TinyMixtral(int64_t kv_memory_bytes, DType kv_dtype) {
  return {.model_directory = TestData() + "/tiny-mixtral",
          .quant = {.scales = ScaleChoice::kFolded},
          .num_threads = 1,
          .kv_memory_bytes = kv_memory_bytes,
          .kv_dtype = kv_dtype};
}

// Half of them begin alike, for more than one block.
std::vector<GenerateRequest> Requests() {
  std::mt19937 random(23);
  std::vector<int32_t> stem(70);
  for (int32_t& token : stem) token = static_cast<int32_t>(random() % kVocab);
  std::vector<GenerateRequest> requests(12);
  for (size_t i = 0; i < requests.size(); ++i) {
    GenerateRequest& request = requests[i];
    if (i % 2 == 0) request.prompt.assign(stem.begin(), stem.begin() + 20 + 9 * (i % 6));
    for (size_t k = 1 + random() % 30; k > 0; --k) {
      request.prompt.push_back(static_cast<int32_t>(random() % kVocab));
    }
    request.priority = static_cast<int32_t>(i % 3);
    request.sampling = {.temperature = i % 3 == 0 ? 0.0f : 0.9f,
                        .min_p = i % 4 == 0 ? 0.05f : 0.0f,
                        .repetition_penalty = i % 4 == 1 ? 1.3f : 1.0f,
                        .frequency_penalty = i % 5 == 1 ? 0.5f : 0.0f,
                        .seed = random(),
                        .max_tokens = 30,
                        .logprobs = 2};
    if (i % 4 == 3) request.sampling.prompt_logprobs = 1;
  }
  return requests;
}

// The same prompts with parameters for which the likeliest tokens suffice, if no logprobs are asked
// for.
std::vector<GenerateRequest> LikeliestRequests(std::optional<int32_t> logprobs) {
  std::vector<GenerateRequest> requests = Requests();
  for (size_t i = 0; i < requests.size(); ++i) {
    requests[i].sampling = {.temperature = i % 3 == 0 ? 0.0f : 0.9f,
                            .top_k = 20 * static_cast<int32_t>(i % 3),
                            .top_p = i % 2 == 0 ? 0.95f : 1.0f,
                            .seed = requests[i].sampling.seed,
                            .max_tokens = 30,
                            .logprobs = logprobs};
  }
  return requests;
}

struct Outcome {
  std::vector<Collected> answers;
  EngineSnapshot snapshot;
};

// All requests through an engine on `world` ranks; one after the other, or together.
Outcome Serve(int world, const RankOptions& options, const EngineOptions& engine_options,
              bool together, const std::vector<GenerateRequest>& requests = Requests()) {
  Outcome outcome;
  RunRanks(world, [&](std::unique_ptr<Communicator> comm) {
    const bool root = comm->rank() == 0;
    absl::StatusOr<std::unique_ptr<Rank>> rank = Rank::Create(options, std::move(comm));
    ASSERT_TRUE(rank.ok()) << rank.status();
    if (!root) return (*rank)->RunWorker();
    RunningEngine engine(engine_options, (*rank)->runner());
    std::vector<std::shared_ptr<RequestStream>> streams;
    if (!together) engine.Start();
    for (const GenerateRequest& request : requests) {
      streams.push_back(*engine->Submit(request));
      if (!together) outcome.answers.push_back(Collect(*streams.back()));
    }
    if (together) engine.Start();
    for (const auto& stream : streams) {
      if (together) outcome.answers.push_back(Collect(*stream));
    }
    engine.Stop();
    outcome.snapshot = engine->Snapshot();
  });
  return outcome;
}

void ExpectSame(const Outcome& actual, const Outcome& expected) {
  ASSERT_EQ(actual.answers.size(), expected.answers.size());
  for (size_t i = 0; i < actual.answers.size(); ++i) {
    EXPECT_EQ(actual.answers[i].tokens, expected.answers[i].tokens) << "request " << i;
    EXPECT_EQ(actual.answers[i].logprobs, expected.answers[i].logprobs) << "request " << i;
    EXPECT_EQ(actual.answers[i].prompt_logprobs, expected.answers[i].prompt_logprobs);
  }
  EXPECT_EQ(actual.snapshot.free_blocks, actual.snapshot.total_blocks);
}

class EngineOnModelTest : public ::testing::TestWithParam<DType> {};

TEST_P(EngineOnModelTest, AloneTogetherPreemptedOrCachedGivesTheSameBits) {
  const DType kv = GetParam();
  const EngineOptions uncached = {.prefix_caching = false};
  const Outcome alone = Serve(1, TinyMixtral(8 << 20, kv), uncached, false);
  EXPECT_EQ(alone.snapshot.prefix_hit_tokens, 0);
  EXPECT_EQ(alone.answers[0].tokens.size(), 30);

  const Outcome cached = Serve(1, TinyMixtral(8 << 20, kv), {}, false);
  EXPECT_GT(cached.snapshot.prefix_hit_tokens, 100);
  ExpectSame(cached, alone);

  const EngineOptions narrow = {.max_batch_tokens = 40};
  const int64_t few_blocks = 20 * BlockBytes(kv);
  const Outcome preempted = Serve(1, TinyMixtral(few_blocks, kv), narrow, true);
  EXPECT_GT(preempted.snapshot.preemptions, 0);
  ExpectSame(preempted, alone);

  const Outcome two_ranks = Serve(2, TinyMixtral(few_blocks / 2, kv), narrow, true);
  EXPECT_GT(two_ranks.snapshot.preemptions, 0);
  ExpectSame(two_ranks, alone);
}

// From all logits, one after the other; from the likeliest tokens, alone and in every company.
TEST_P(EngineOnModelTest, LikeliestTokensOrAllLogitsGiveTheSameTokens) {
  const DType kv = GetParam();
  const EngineOptions narrow = {.max_batch_tokens = 40};
  const std::vector<GenerateRequest> requests = LikeliestRequests({});
  const Outcome expected = Serve(1, TinyMixtral(8 << 20, kv), {}, false, LikeliestRequests(0));
  const Outcome alone = Serve(1, TinyMixtral(8 << 20, kv), {}, false, requests);
  const Outcome preempted = Serve(1, TinyMixtral(20 * BlockBytes(kv), kv), narrow, true, requests);
  EXPECT_GT(preempted.snapshot.preemptions, 0);
  const Outcome two_ranks = Serve(2, TinyMixtral(10 * BlockBytes(kv), kv), narrow, true, requests);
  for (size_t i = 0; i < requests.size(); ++i) {
    EXPECT_EQ(alone.answers[i].tokens, expected.answers[i].tokens) << "request " << i;
    EXPECT_EQ(preempted.answers[i].tokens, expected.answers[i].tokens) << "request " << i;
    EXPECT_EQ(two_ranks.answers[i].tokens, expected.answers[i].tokens) << "request " << i;
  }
}

INSTANTIATE_TEST_SUITE_P(KvDTypes, EngineOnModelTest, ::testing::Values(DType::kBF16, DType::kI8),
                         [](const auto& kv) { return std::string(Name(kv.param)); });

}  // namespace
}  // namespace intermix
