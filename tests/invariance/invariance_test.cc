// The promise: the same request gives the same logits and tokens, bit for bit, whatever the batch
// it rides in, the chunking of its prompt, the TP x EP layout, the dispatcher, and a replay.
// Compared with one rank that runs each sequence alone, its whole prompt in one step.
#include <random>

#include "gtest/gtest.h"
#include "tests/testing/scripted_run.h"
#include "tests/testing/test_paths.h"

namespace intermix {
namespace {

struct Model {
  std::string directory;  // under tests/data
  QuantSpec spec;
  int32_t vocab_size;
  int num_experts;
  int longest_prompt;
  DType kv_dtype = DType::kBF16;

  friend void PrintTo(const Model& m, std::ostream* os) {
    *os << m.directory << ", KV cache " << Name(m.kv_dtype);
  }
};

std::string Data(const std::string& name) { return TestData() + "/" + name; }

// Prompts of ragged lengths, from one token to more than two attention splits.
std::vector<std::vector<int32_t>> Prompts(int32_t vocab_size, const std::vector<int>& lengths) {
  std::mt19937 random(7);
  std::vector<std::vector<int32_t>> prompts;
  for (int length : lengths) {
    std::vector<int32_t> prompt;
    for (int i = 0; i < length; ++i) {
      prompt.push_back(static_cast<int32_t>(random() % static_cast<uint32_t>(vocab_size)));
    }
    prompts.push_back(std::move(prompt));
  }
  return prompts;
}

class InvarianceTest : public testing::TestWithParam<Model> {
 protected:
  static constexpr int kNewTokens = 6;

  RankOptions Options() const {
    return {.model_directory = Data(GetParam().directory),
            .quant = GetParam().spec,
            .num_threads = 1,
            .kv_memory_bytes = 8 << 20,
            .kv_dtype = GetParam().kv_dtype};
  }
  std::vector<SequenceTrace> Run(int world, const RankOptions& options, const Ride& ride) const {
    return RunJob(world, options, prompts_, kNewTokens, ride);
  }
  std::vector<SequenceTrace> Baseline() const { return Run(1, Options(), {.together = false}); }

  void ExpectSame(const std::vector<SequenceTrace>& actual,
                  const std::vector<SequenceTrace>& expected) const {
    ASSERT_EQ(actual.size(), expected.size());
    for (size_t i = 0; i < actual.size(); ++i) {
      EXPECT_EQ(actual[i].tokens, expected[i].tokens) << "sequence " << i;
      EXPECT_TRUE(actual[i].logits == expected[i].logits) << "logits of sequence " << i;
    }
  }

  std::vector<std::vector<int32_t>> prompts_ =
      Prompts(GetParam().vocab_size, {1, 3, GetParam().longest_prompt, 17, 40});
};

TEST_P(InvarianceTest, BatchAndChunking) {
  const std::vector<SequenceTrace> expected = Baseline();
  for (const Ride& ride :
       {Ride{}, Ride{.chunk_tokens = 1}, Ride{.chunk_tokens = 7},
        Ride{.chunk_tokens = 33, .decode_with_prefill = true, .block_stride = 3},
        Ride{.chunk_tokens = 16, .together = false, .replay_from = 3}, Ride{.replay_from = 4}}) {
    SCOPED_TRACE(testing::Message() << "chunks of " << ride.chunk_tokens << ", together "
                                    << ride.together << ", replay " << ride.replay_from);
    ExpectSame(Run(1, Options(), ride), expected);
  }
}

TEST_P(InvarianceTest, Threads) {
  RankOptions options = Options();
  options.num_threads = 3;
  ExpectSame(Run(1, options, {.chunk_tokens = 50}), Baseline());
}

TEST_P(InvarianceTest, ReferenceBackend) {
  RankOptions options = Options();
  options.device = "reference";
  ExpectSame(Run(1, options, {}), Baseline());
}

TEST_P(InvarianceTest, EveryLayout) {
  const std::vector<SequenceTrace> expected = Baseline();
  for (int world : {2, 4}) {
    for (int tp = 1; tp <= world; tp *= 2) {
      for (int ep = 1; ep <= (GetParam().num_experts > 0 ? world : 1); ep *= 2) {
        for (auto dispatch : {RankOptions::Dispatch::kAuto, RankOptions::Dispatch::kAllToAll,
                              RankOptions::Dispatch::kReplicated}) {
          SCOPED_TRACE(testing::Message() << "world " << world << ", tp " << tp << ", ep " << ep
                                          << ", dispatch " << static_cast<int>(dispatch));
          RankOptions options = Options();
          options.tp = tp;
          options.ep = ep;
          options.dispatch = dispatch;
          const Ride ride = {.chunk_tokens = 48, .decode_with_prefill = true};
          ExpectSame(Run(world, options, ride), expected);
          if (dispatch != RankOptions::Dispatch::kAllToAll || ep < world) continue;
          options.overlap_tokens = 0;  // in halves, also where a rank has one token or none
          ExpectSame(Run(world, options, ride), expected);
        }
      }
    }
  }
}

// Where a step brings back the likeliest tokens only, they are those of all the logits: also more
// of them than a rank's slice of the vocabulary has.
TEST_P(InvarianceTest, LikeliestTokensOfEveryLayout) {
  const Ride ride = {.chunk_tokens = 48, .decode_with_prefill = true, .likeliest = 40};
  std::vector<SequenceTrace> expected;
  for (const SequenceTrace& trace : Baseline()) {
    expected.push_back(LikeliestOf(trace, ride.likeliest));
  }
  for (int world : {1, 2, 4}) {
    for (int tp = 1; tp <= world; tp *= 2) {
      SCOPED_TRACE(testing::Message() << "world " << world << ", tp " << tp);
      RankOptions options = Options();
      options.tp = tp;
      const std::vector<SequenceTrace> actual = Run(world, options, ride);
      ASSERT_EQ(actual.size(), expected.size());
      for (size_t i = 0; i < expected.size(); ++i) {
        EXPECT_EQ(actual[i].ids, expected[i].ids) << "sequence " << i;
        EXPECT_TRUE(actual[i] == expected[i]) << "sequence " << i;
      }
    }
  }
}

QuantSpec Spec(Scheme scheme, ScaleChoice scales, int64_t group_size) {
  return {.scheme = scheme, .group_size = group_size, .scales = scales};
}

INSTANTIATE_TEST_SUITE_P(
    Models, InvarianceTest,
    testing::Values(
        // More than two attention splits.
        Model{"tiny-mixtral", Spec(Scheme::kInteger, ScaleChoice::kFolded, 128), 2048, 8, 600},
        Model{"tiny-mixtral", Spec(Scheme::kInteger, ScaleChoice::kWide, 64), 2048, 8, 300},
        Model{"tiny-mixtral", Spec(Scheme::kFloat, ScaleChoice::kAuto, 32), 2048, 8, 100},
        Model{"tiny-mixtral", Spec(Scheme::kNone, ScaleChoice::kAuto, 128), 2048, 8, 100},
        // One K/V head (replicated under tensor parallelism), top-3, tied embeddings.
        Model{"random-mixtral-mqa", Spec(Scheme::kInteger, ScaleChoice::kAuto, 32), 101, 8, 90},
        // Dense: tensor and data parallel only; head_dim 24 has a tail in the 16-lane order.
        Model{"random-llama-gqa", Spec(Scheme::kInteger, ScaleChoice::kAuto, 32), 111, 0, 90},
        Model{"random-llama-gqa", Spec(Scheme::kNone, ScaleChoice::kAuto, 32), 111, 0, 90},
        // An int8 cache: several splits, a replicated K/V head, a tail.
        Model{"tiny-mixtral", Spec(Scheme::kInteger, ScaleChoice::kFolded, 128), 2048, 8, 300,
              DType::kI8},
        Model{"random-mixtral-mqa", Spec(Scheme::kInteger, ScaleChoice::kAuto, 32), 101, 8, 90,
              DType::kI8},
        Model{"random-llama-gqa", Spec(Scheme::kInteger, ScaleChoice::kAuto, 32), 111, 0, 90,
              DType::kI8}));

}  // namespace
}  // namespace intermix
