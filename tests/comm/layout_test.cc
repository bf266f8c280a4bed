// ParallelLayout and the shard plan: which ranks there are and what each of them holds.
#include "comm/parallel_layout.h"
#include "comm/sharding.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace intermix {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

std::string MakeError(int world, int tp, int ep, int experts) {
  return std::string(ParallelLayout::Make(world, tp, ep, experts).status().message());
}

TEST(ParallelLayoutTest, DefaultsUseEveryRank) {
  EXPECT_EQ(ParallelLayout::Make(4, 0, 0, 8)->ToString(), "world 4: dp 1 x tp 4, ep 4 x etp 1");
  EXPECT_EQ(ParallelLayout::Make(16, 0, 0, 8)->ToString(), "world 16: dp 1 x tp 16, ep 8 x etp 2");
  EXPECT_EQ(ParallelLayout::Make(4, 0, 0, 8, 4)->ToString(), "world 4: dp 1 x tp 4, ep 1 x etp 4");
  EXPECT_EQ(ParallelLayout::Make(8, 4, 0, 8, 2)->ToString(), "world 8: dp 2 x tp 4, ep 4 x etp 2");
  EXPECT_EQ(ParallelLayout::Make(8, 4, 8, 8, 2)->ToString(), "world 8: dp 2 x tp 4, ep 8 x etp 1");
  EXPECT_EQ(ParallelLayout::Make(6, 2, 0, 8)->ToString(), "world 6: dp 3 x tp 2, ep 2 x etp 3");
  EXPECT_EQ(ParallelLayout::Make(4, 2, 0, 0)->ToString(), "world 4: dp 2 x tp 2, ep 1 x etp 4");
}

TEST(ParallelLayoutTest, RefusalsNameTheNumbersThatDoNotDivide) {
  EXPECT_EQ(MakeError(4, 3, 0, 8), "--tp 3 does not divide the 4 ranks of this job");
  EXPECT_EQ(MakeError(4, 2, 3, 8), "--ep 3 does not divide the 4 ranks of this job");
  EXPECT_EQ(MakeError(3, 3, 3, 8), "--ep 3 does not divide the model's 8 experts");
  EXPECT_THAT(MakeError(2, 0, 2, 0), HasSubstr("this one is dense"));
  EXPECT_THAT(MakeError(2, -1, 2, 0), HasSubstr("must be 0 (automatic) or positive"));
}

TEST(ParallelLayoutTest, RanksOfAGroupAreConsecutive) {
  const ParallelLayout layout = *ParallelLayout::Make(8, 2, 4, 8);
  EXPECT_EQ(layout.dp, 4);
  EXPECT_EQ(layout.etp, 2);
  EXPECT_EQ(layout.tp_rank(5), 1);
  EXPECT_EQ(layout.dp_rank(5), 2);
  EXPECT_EQ(layout.etp_rank(5), 1);
  EXPECT_EQ(layout.ep_rank(5), 2);
}

constexpr ShardDims kMixtral = {.hidden_size = 256,
                                .intermediate_size = 512,
                                .num_attention_heads = 8,
                                .num_key_value_heads = 2,
                                .vocab_size = 1001,
                                .num_experts = 8};

// What several ranks hold of one dimension, in rank order, covers it without gaps.
void ExpectCovers(const std::vector<Slice>& slices, int64_t total) {
  int64_t next = 0;
  for (const Slice& s : slices) {
    EXPECT_EQ(s.begin, next);
    next = s.end;
  }
  EXPECT_EQ(next, total);
}

TEST(ShardPlanTest, TensorParallelSlicesCoverEachDimension) {
  const ParallelLayout layout = *ParallelLayout::Make(4, 4, 2, 8);
  std::vector<Slice> heads, hidden, vocab;
  for (int rank = 0; rank < 4; ++rank) {
    const ShardPlan plan = *MakeShardPlan(kMixtral, layout, rank);
    heads.push_back(plan.heads);
    hidden.push_back(plan.hidden);
    vocab.push_back(plan.vocab);
    EXPECT_EQ(plan.padded_vocab_size, 1004);
    EXPECT_EQ(plan.experts.size(), 4);
    EXPECT_EQ(plan.expert_intermediate.size(), 256);
    EXPECT_EQ(plan.expert_hidden.size(), 128);
    EXPECT_EQ(plan.experts.begin, rank < 2 ? 0 : 4);
  }
  ExpectCovers(heads, 8);
  ExpectCovers(hidden, 256);
  ExpectCovers(vocab, 1004);
}

TEST(ShardPlanTest, KvHeadsAreReplicatedWhereTheyAreFewer) {
  const ParallelLayout layout = *ParallelLayout::Make(4, 4, 4, 8);
  const ShardPlan plan = *MakeShardPlan(kMixtral, layout, 2);  // heads 4 and 5 of 8
  EXPECT_EQ(plan.kv_heads, (Slice{.begin = 1, .end = 2}));
  EXPECT_THAT(plan.kv_head_of, ElementsAre(0, 0));
  const ShardPlan whole = *MakeShardPlan(kMixtral, ParallelLayout(), 0);
  EXPECT_THAT(whole.kv_head_of, ElementsAre(0, 0, 0, 0, 1, 1, 1, 1));
}

TEST(ShardPlanTest, RefusalsNameTheDimension) {
  const auto error = [](ShardDims dims, int tp, int ep) {
    const ParallelLayout layout = {.world = 4, .tp = tp, .ep = ep, .dp = 4 / tp, .etp = 4 / ep};
    return std::string(MakeShardPlan(dims, layout, 0).status().message());
  };
  ShardDims dims = kMixtral;
  dims.num_attention_heads = 6;
  dims.num_key_value_heads = 6;
  EXPECT_EQ(error(dims, 4, 4), "--tp 4 does not divide the model's num_attention_heads of 6");
  dims = kMixtral;
  dims.num_attention_heads = 12;
  dims.num_key_value_heads = 3;
  EXPECT_THAT(error(dims, 4, 4), HasSubstr("num_key_value_heads of 3"));
  dims = kMixtral;
  dims.intermediate_size = 510;
  EXPECT_THAT(error(dims, 1, 1), HasSubstr("intermediate_size of 510"));
}

TEST(LayoutProblemsTest, AreAllThereAtOnce) {
  EXPECT_THAT(LayoutProblems(kMixtral, 4, 2, 2), IsEmpty());
  EXPECT_THAT(LayoutProblems(kMixtral, 3, 2, 2),
              ElementsAre("--tp 2 does not divide the 3 ranks of this job",
                          "--ep 2 does not divide the 3 ranks of this job"));
  EXPECT_THAT(LayoutProblems(kMixtral, 3, 2, 0),
              ElementsAre("--tp 2 does not divide the 3 ranks of this job"));
  ShardDims dims = kMixtral;
  dims.num_attention_heads = 6;
  dims.num_key_value_heads = 3;
  EXPECT_THAT(
      LayoutProblems(dims, 4, 4, 4),
      ElementsAre("--tp 4 does not divide the model's num_attention_heads of 6",
                  "--tp 4 neither divides nor is a multiple of the model's num_key_value_heads "
                  "of 3"));
}

}  // namespace
}  // namespace intermix
