// Rank: what start-up refuses, on every rank alike, and what it reports once it runs.
#include "runtime/engine/rank.h"

#include <array>
#include <atomic>

#include "comm/self_communicator.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "runtime/checkpoint/checkpoint.h"
#include "runtime/engine/kv_sizing.h"
#include "runtime/engine/memory_need.h"
#include "tests/testing/run_ranks.h"
#include "tests/testing/test_paths.h"

namespace intermix {
namespace {

using ::testing::HasSubstr;

RankOptions TinyMixtral() {
  return {.model_directory = TestData() + "/tiny-mixtral",
          .quant = {.scales = ScaleChoice::kFolded},
          .num_threads = 1,
          .kv_memory_bytes = 1 << 20};
}

// The one status that all `world` ranks get.
absl::Status Refusal(int world, const RankOptions& options) {
  std::vector<absl::Status> statuses(world);
  RunRanks(world, [&](std::unique_ptr<Communicator> comm) {
    const int rank = comm->rank();
    statuses[rank] = Rank::Create(options, std::move(comm)).status();
  });
  for (const absl::Status& status : statuses) EXPECT_EQ(status, statuses.front());
  EXPECT_FALSE(statuses.front().ok());
  return statuses.front();
}

TEST(RankTest, IllegalLayoutsAreRefusedOnEveryRankWithOneSentence) {
  RankOptions options = TinyMixtral();
  options.tp = 3;
  EXPECT_EQ(Refusal(4, options),
            absl::InvalidArgumentError("--tp 3 does not divide the 4 ranks of this job"));
  options.tp = 0;
  options.ep = 3;
  EXPECT_EQ(Refusal(3, options),
            absl::InvalidArgumentError("--ep 3 does not divide the model's 8 experts"));
  options.ep = 1;
  EXPECT_THAT(std::string(Refusal(3, options).message()), HasSubstr("--tp 3 does not divide"));
}

TEST(RankTest, ImpossibleOptionsAreRefusedInWords) {
  RankOptions options = TinyMixtral();
  options.device = "tpu";
  EXPECT_THAT(std::string(Refusal(1, options).message()), HasSubstr("no device \"tpu\""));
  options = TinyMixtral();
  options.max_context = 4096;
  EXPECT_EQ(Refusal(2, options).message(),
            "a context of 4096 tokens is longer than the model's 2048");
  options = TinyMixtral();
  options.kv_memory_bytes = 100;
  EXPECT_THAT(std::string(Refusal(2, options).message()), HasSubstr("give more with --kv-memory"));
  options = TinyMixtral();
  options.model_directory = TestData() + "/nowhere";
  EXPECT_THAT(std::string(Refusal(2, options).message()), HasSubstr("nowhere"));
}

TEST(RankTest, SaysWhatItIsAndCountsItsExpertsTokens) {
  std::atomic<int64_t> total = 0;
  RunRanks(2, [&](std::unique_ptr<Communicator> comm) {
    const bool root = comm->rank() == 0;
    RankOptions options = TinyMixtral();
    options.ep = 2;
    const std::unique_ptr<Rank> rank = *Rank::Create(options, std::move(comm));
    EXPECT_EQ(rank->layout().ToString(), "world 2: dp 1 x tp 2, ep 2 x etp 1");
    EXPECT_THAT(rank->model_description(), HasSubstr("MixtralForCausalLM"));
    EXPECT_LE(rank->kv_bytes(), 1 << 20);
    EXPECT_GT(rank->weight_bytes(), 1 << 20);
    constexpr int64_t kTokens = 5;
    if (root) {
      const Tensor logits = rank->runner()
                                .Step({.step = 1,
                                       .chunks = {{.logits = LogitsWanted::kAll,
                                                   .tokens = {1, 2, 3, 4, 5},
                                                   .blocks = {0}}}})
                                .values;
      EXPECT_EQ(logits.rows(), kTokens);
      EXPECT_EQ(logits.cols(), 2048);
      rank->runner().Stop();
    } else {
      rank->RunWorker();
    }
    EXPECT_EQ(rank->progress().step, 1);
    EXPECT_EQ(rank->progress().tokens, kTokens);
    const std::vector<int64_t> tokens = rank->expert_tokens();
    ASSERT_EQ(tokens.size(), 8u);
    // Ranks count only their own experts; together they make top-2 of every token in each layer.
    for (int e = 0; e < 8; ++e) {
      if ((e < 4) != root) {
        EXPECT_EQ(tokens[e], 0) << "expert " << e;
      }
      total += tokens[e];
    }
    rank->world().Barrier();
    EXPECT_EQ(total, kTokens * 2 * 4);
  });
}

TEST(KvSizingTest, TakesBytesOrAFractionOrWhatIsSensible) {
  const KvCacheShape shape = {
      .num_layers = 1, .num_kv_heads = 1, .block_size = 16, .head_dim = 32};  // 2 KiB for a block
  const std::unique_ptr<Communicator> self = MakeSelfCommunicator();
  const auto blocks = [&](const KvSizing& sizing) { return *DecideKvBlocks(sizing, shape, *self); };
  EXPECT_EQ(blocks({.memory_bytes = 1 << 20, .max_context = 64, .free_bytes = 1 << 21}), 512);
  EXPECT_EQ(blocks({.fraction = 0.75, .max_context = 64, .free_bytes = 1 << 20}), 384);
  EXPECT_EQ(blocks({.max_context = 64, .free_bytes = 1 << 20}), 16 * 4);
  EXPECT_EQ(blocks({.max_context = 1 << 20, .free_bytes = 1 << 20}), 256) << "half";
}

TEST(RankTest, WhatItNeedsIsKnownBefore) {
  for (const QuantSpec& spec : std::vector<QuantSpec>{{.scheme = Scheme::kNone},
                                                      {.scheme = Scheme::kFloat, .group_size = 32},
                                                      {.scales = ScaleChoice::kFolded},
                                                      {.bits = 8, .group_size = 0}}) {
    RunRanks(2, [&](std::unique_ptr<Communicator> comm) {
      RankOptions options = TinyMixtral();
      options.quant = spec;
      options.ep = 2;
      const std::unique_ptr<Rank> rank = *Rank::Create(options, std::move(comm));
      const ModelConfig& config = rank->config();
      const ShardPlan plan =
          *MakeShardPlan(config.shard_dims(), rank->layout(), rank->world().rank());
      const auto taken = static_cast<double>(rank->weight_bytes());
      EXPECT_NEAR(static_cast<double>(WeightBytes(config, spec, plan)), taken, 0.05 * taken)
          << rank->model_description();
      const int64_t tokens = rank->kv_bytes() / KvBytesPerToken(config, plan, DType::kBF16);
      EXPECT_EQ(tokens, rank->runner().num_kv_blocks() * rank->runner().block_size());
    });
  }
}

TEST(RankTest, AnInt8CacheHoldsNearlyTwiceAsManyTokens) {
  std::array<int32_t, 2> blocks = {};
  std::array<std::vector<float>, 2> logits;
  for (const DType dtype : {DType::kBF16, DType::kI8}) {
    const auto i = static_cast<size_t>(dtype == DType::kI8);
    RunRanks(1, [&](std::unique_ptr<Communicator> comm) {
      RankOptions options = TinyMixtral();
      options.kv_dtype = dtype;
      const std::unique_ptr<Rank> rank = *Rank::Create(options, std::move(comm));
      blocks[i] = rank->runner().num_kv_blocks();
      EXPECT_LE(rank->kv_bytes(), 1 << 20);
      const Tensor last =
          rank->runner()
              .Step(
                  {.step = 1,
                   .chunks = {{.logits = LogitsWanted::kLast, .tokens = {1, 2, 3}, .blocks = {0}}}})
              .values;
      logits[i].assign(last.data<float>(), last.data<float>() + last.cols());
    });
  }
  // 4 layers, K and V of 4 heads: 32 elements of 2 bytes, or of 1 and a scale of 4.
  EXPECT_EQ(blocks[0], (1 << 20) / (4 * 2 * 4 * 16 * 64));
  EXPECT_EQ(blocks[1], (1 << 20) / (4 * 2 * 4 * 16 * 36));
  EXPECT_NE(logits[0], logits[1]);
}

}  // namespace
}  // namespace intermix
