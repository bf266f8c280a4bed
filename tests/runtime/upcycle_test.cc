// Upcycled models: bit for bit the dense model with one expert per token, the same text with more;
// and what is not a dense model is refused.
#include "runtime/checkpoint/upcycle.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <numeric>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "runtime/checkpoint/expert_rewrite.h"
#include "tests/testing/compare.h"
#include "tests/testing/model_files.h"
#include "tests/testing/stepped_model.h"
#include "tests/testing/test_paths.h"

namespace intermix {
namespace {

using nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string Data(const std::string& model) { return TestData() + "/" + model; }

TEST(ExpertRewriteTest, ReordersUnitsAndKeepsGroupsTogether) {
  std::mt19937_64 random(7);
  for (int64_t n : {1, 31, 96, 256, 1000, 1536}) {
    const ExpertRewrite rewrite = DrawExpertRewrite(n, random);
    std::vector<int64_t> sorted = rewrite.order;
    std::sort(sorted.begin(), sorted.end());
    std::vector<int64_t> all(n);
    std::iota(all.begin(), all.end(), 0);
    EXPECT_EQ(sorted, all);
    for (int64_t group : {32, 64, 128}) {
      for (int64_t i = 0; i < n / group * group; ++i) {
        EXPECT_EQ(rewrite.order[i] / group, rewrite.order[i / group * group] / group)
            << "unit " << i << " of " << n << ", groups of " << group;
      }
    }
    if (n < 256) continue;
    EXPECT_NE(rewrite.order, DrawExpertRewrite(n, random).order);
    int64_t moved = 0;
    for (int64_t i = 0; i < n; ++i) moved += rewrite.order[i] != i;
    EXPECT_GT(moved, n / 2);
  }
}

TEST(ExpertRewriteTest, ScalesExactlyOrNotAtAll) {
  std::vector<float> f32 = {0.0f, -0.0f, -3.5f, 0x1p-126f, 1e30f};
  const Tensor of_f32(f32.data(), DType::kF32, {1, 5});
  EXPECT_EQ(ExactScalings(of_f32).smallest, 0) << "the smallest normal number";
  EXPECT_EQ(ExactScalings(of_f32).largest, 127 - 99);
  ScaleByPowerOfTwo(of_f32, 2);
  EXPECT_THAT(f32, ElementsAre(0.0f, -0.0f, -14.0f, 0x1p-124f, 4e30f));
  EXPECT_TRUE(std::signbit(f32[1]));

  std::vector<BFloat16> bf16 = {BFloat16(-0.375f), BFloat16(0.0f)};
  ScaleByPowerOfTwo(Tensor(bf16.data(), DType::kBF16, {1, 2}), -2);
  EXPECT_EQ(static_cast<float>(bf16[0]), -0.09375f);
  EXPECT_EQ(bf16[1].bits, 0);

  std::vector<uint16_t> f16 = {0x3C00, 0x7800, 0xBC00};  // 1, 32768, -1
  const Tensor of_f16(f16.data(), DType::kF16, {3, 1});
  EXPECT_EQ(ExactScalings(of_f16).largest, 0) << "65504 is the largest number";
  EXPECT_EQ(ExactScalings(of_f16).smallest, -14);
  ScaleByPowerOfTwo(of_f16, -1);
  EXPECT_THAT(f16, ElementsAre(0x3800, 0x7400, 0xB800));
  f16[1] = 0x0001;  // subnormal
  EXPECT_EQ(ExactScalings(of_f16).smallest, 0);
  EXPECT_EQ(ExactScalings(of_f16).largest, 0);
}

class UpcycleTest : public ::testing::TestWithParam<std::string> {
 protected:
  // A Mixtral of the model; fails the test where that does not work.
  std::string Upcycled(int64_t top_k) {
    const std::string out = directory_ / ("top" + std::to_string(top_k));
    const auto summary = UpcycleCheckpoint({.model_directory = Data(GetParam()),
                                            .out_directory = out,
                                            .num_experts = 4,
                                            .top_k = top_k,
                                            .seed = 3});
    EXPECT_TRUE(summary.ok()) << summary.status();
    return out;
  }

  const json golden_ = ReadTestJson(GetParam() + "/golden.json");
  const std::vector<int32_t> prompt_ = golden_.at("prompt");
  TempDirectory directory_;
};

// Integer sums do not depend on the order of hidden units, and groups keep their members: there is
// nothing left that could round otherwise.
TEST_P(UpcycleTest, QuantisedWithOneExpertPerTokenItIsTheDenseModelBitForBit) {
  const std::string mixtral = Upcycled(1);
  for (const QuantSpec& quant : {QuantSpec{.group_size = 32}, QuantSpec{.bits = 8, .group_size = 0},
                                 QuantSpec{.group_size = 32, .scales = ScaleChoice::kWide}}) {
    const auto dense = SteppedModel::Load(GetParam(), quant);
    const auto moe = SteppedModel::Load(mixtral, quant);
    ASSERT_TRUE(dense && moe);
    EXPECT_EQ(moe->Step(prompt_), dense->Step(prompt_));
  }
}

TEST_P(UpcycleTest, TextIsTheDenseModelsWhateverTheRouting) {
  const auto greedy = golden_.at("greedy").get<std::vector<int32_t>>();
  for (int64_t top_k : {2, 3}) {
    const auto moe = SteppedModel::Load(Upcycled(top_k));
    ASSERT_NE(moe, nullptr);
    EXPECT_EQ(moe->Greedy(prompt_, greedy.size()), greedy) << "top " << top_k;
  }
}

// The reason for such models: one expert's rows in another's place are seen at once.
TEST_P(UpcycleTest, AnExpertsWeightsInAnothersPlaceAreSeen) {
  const std::string mixtral = Upcycled(2);
  const auto right = SteppedModel::Load(mixtral)->Step(prompt_);
  for (const std::string weight : {"w1", "w2", "w3"}) {
    EditTensors(mixtral, [&](std::map<std::string, FileTensor>& tensors) {
      const std::string experts = "model.layers.0.block_sparse_moe.experts.";
      for (int expert : {1, 2, 3}) {
        std::swap(tensors.at(experts + "0." + weight + ".weight"),
                  tensors.at(experts + std::to_string(expert) + "." + weight + ".weight"));
      }
    });
    EXPECT_NE(SteppedModel::Load(mixtral)->Step(prompt_), right) << weight;
    std::filesystem::remove_all(mixtral);
    Upcycled(2);
  }
}

INSTANTIATE_TEST_SUITE_P(All, UpcycleTest,
                         ::testing::Values("random-llama-mha", "random-llama-gqa",
                                           "random-llama-mqa"),
                         [](const auto& param_info) {
                           std::string name = param_info.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

TEST(UpcycleCheckpointTest, TheSeedDecides) {
  const TempDirectory directory;
  const auto file = [&](const std::string& name, uint64_t seed) {
    const auto summary = UpcycleCheckpoint({.model_directory = Data("random-llama-gqa"),
                                            .out_directory = directory / name,
                                            .seed = seed});
    EXPECT_TRUE(summary.ok()) << summary.status();
    return ReadFile(directory / (name + "/model.safetensors"));
  };
  const std::string first = file("a", 1);
  EXPECT_EQ(file("b", 1), first);
  EXPECT_NE(file("c", 2), first);
}

TEST(UpcycleCheckpointTest, CarriesWhatServingNeeds) {
  const TempDirectory directory;
  CopyModel("random-llama-mqa", directory / "dense");
  WriteFile(directory / "dense/tokenizer.json", "{}");
  int64_t done = 0;
  int64_t total = 0;
  const auto summary = UpcycleCheckpoint({.model_directory = directory / "dense",
                                          .out_directory = directory / "out",
                                          .progress = [&](int64_t bytes, int64_t of) {
                                            EXPECT_GT(bytes, done);
                                            done = bytes;
                                            total = of;
                                          }});
  ASSERT_TRUE(summary.ok()) << summary.status();
  EXPECT_EQ(done, total);
  EXPECT_GT(summary->bytes_out, summary->bytes_in);
  EXPECT_THAT(ListNames(directory.path()), ElementsAre("dense", "out"));
  EXPECT_THAT(ListNames(directory / "out"),
              ElementsAre("config.json", "model.safetensors", "tokenizer.json"));
  const json config = json::parse(ReadFile(directory / "out/config.json"));
  EXPECT_EQ(config.at("architectures"), json({"MixtralForCausalLM"}));
  EXPECT_EQ(config.at("num_local_experts"), 8);
  EXPECT_EQ(config.at("num_experts_per_tok"), 2);
  EXPECT_EQ(config.at("rope_scaling").at("factor"), 4.0);
  EXPECT_EQ(config.at("rms_norm_eps"), 1e-6) << "Mixtral's default is another";
}

TEST(UpcycleCheckpointTest, RefusesWithoutLeavingAnything) {
  const TempDirectory directory;
  UpcycleOptions options = {.model_directory = Data("random-llama-gqa"),
                            .out_directory = directory / "out"};
  const auto refusal = [&] {
    const absl::Status status = UpcycleCheckpoint(options).status();
    EXPECT_FALSE(status.ok());
    EXPECT_THAT(ListNames(directory.path()), ElementsAre());
    return std::string(status.message());
  };
  options.num_experts = 0;
  EXPECT_THAT(refusal(), HasSubstr("num_local_experts"));
  options.num_experts = 2;
  options.top_k = 3;
  EXPECT_THAT(refusal(), HasSubstr("num_experts_per_tok"));
  options.top_k = 1;
  options.cancelled = [] { return true; };
  EXPECT_THAT(refusal(), HasSubstr("interrupted"));
  options.cancelled = nullptr;
  options.model_directory = Data("tiny-mixtral");
  EXPECT_THAT(refusal(), HasSubstr("is a mixture of experts already"));
  options.model_directory = Data("no-such-model");
  EXPECT_THAT(refusal(), HasSubstr("no-such-model"));
  options.model_directory = Data("random-llama-gqa");
  options.out_directory = directory.path();
  WriteFile(directory / "mine", "kept");
  EXPECT_THAT(std::string(UpcycleCheckpoint(options).status().message()),
              HasSubstr("is not empty; name another directory"));
  EXPECT_THAT(ListNames(directory.path()), ElementsAre("mine"));
}

}  // namespace
}  // namespace intermix
