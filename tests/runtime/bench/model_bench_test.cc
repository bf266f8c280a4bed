// `bench model` on a toy: what it counts and reports, with a clock that does not run by itself.
#include "runtime/bench/model_bench.h"

#include <map>

#include "comm/self_communicator.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/reference/reference_backend.h"
#include "runtime/bench/model_presets.h"
#include "tests/testing/test_paths.h"

namespace intermix {
namespace {

using ::testing::HasSubstr;

ModelConfig Toy(int64_t experts) {
  return {.architecture = experts > 0 ? "MixtralForCausalLM" : "LlamaForCausalLM",
          .vocab_size = 50,
          .hidden_size = 64,
          .intermediate_size = 128,
          .num_hidden_layers = 2,
          .num_attention_heads = 4,
          .num_key_value_heads = 2,
          .head_dim = 16,
          .num_local_experts = experts,
          .num_experts_per_tok = experts > 0 ? 2 : 0,
          .max_position_embeddings = 64};
}

absl::StatusOr<std::vector<Table>> Bench(const ModelBenchOptions& options) {
  const std::unique_ptr<Backend> backend = MakeReferenceBackend();
  double now = 0.0;
  // One operation of any kind a second; every look at the clock takes one.
  std::vector<Limit> limits = {{.resource = Resource::kInt8, .amount = 1.0, .run = [] {}}};
  TurnTimer timer(std::move(limits), nullptr,
                  {.turns = 1, .min_seconds = 0.0, .clock = [&] { return now += 1.0; }});
  return BenchModel(options, *backend, MakeSelfCommunicator(), timer);
}

double Number(const std::vector<Cell>& row, size_t column) { return std::get<double>(row[column]); }

TEST(ModelBenchTest, CountsTheOperationsOfADenseModel) {
  const absl::StatusOr<std::vector<Table>> tables = Bench({.config = Toy(0),
                                                           .quant = {.group_size = 32},
                                                           .prompt = 10,
                                                           .generate = 3,
                                                           .batches = {1, 4},
                                                           .context = 5});
  ASSERT_TRUE(tables.ok()) << tables.status();
  const Table& model = tables->at(0);
  ASSERT_EQ(model.rows.size(), 3u);
  const double layer = (64 + 2 * 32) * 64 + 64 * 64 + 3 * 64 * 128;  // weights
  const double head = 50 * 64;
  // One second in which the limit does one operation: the fraction is the number of operations.
  EXPECT_DOUBLE_EQ(Number(model.rows[0], 6), 100.0 * 2 * (10 * 2 * layer + head));
  EXPECT_DOUBLE_EQ(Number(model.rows[1], 6), 100.0 * 3 * 2 * (2 * layer + head));
  EXPECT_DOUBLE_EQ(Number(model.rows[2], 6), 100.0 * 3 * 2 * 4 * (2 * layer + head));
  EXPECT_DOUBLE_EQ(Number(model.rows[0], 1), 10.0);  // tokens in one second
  EXPECT_DOUBLE_EQ(Number(model.rows[2], 1), 4.0 * 3.0);
}

TEST(ModelBenchTest, SplitsTheTimeByOp) {
  const absl::StatusOr<std::vector<Table>> tables = Bench(
      {.config = Toy(4), .quant = {.group_size = 32}, .prompt = 0, .generate = 2, .context = 8});
  ASSERT_TRUE(tables.ok()) << tables.status();
  double share = 0.0;
  std::map<std::string, double> calls;
  for (const std::vector<Cell>& row : tables->at(1).rows) {
    EXPECT_EQ(std::get<std::string>(row[0]), "generate, batch 1");
    calls[std::get<std::string>(row[1])] = Number(row, 2);
    share += Number(row, 4);
  }
  EXPECT_NEAR(share, 100.0, 1e-6);
  EXPECT_EQ(calls["linear"], 2 * 2 + 1);       // qkv and o of each layer, lm_head
  EXPECT_EQ(calls["gated expert linear"], 2);  // gate and up of each layer
  EXPECT_EQ(calls["expert linear"], 2);        // down of each layer
}

TEST(ModelBenchTest, RefusesWhatDoesNotFitTheContext) {
  const absl::Status status =
      Bench({.config = Toy(0), .prompt = 0, .generate = 60, .context = 5}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("64"));
}

TEST(ModelPresetsTest, NamesAndDirectories) {
  const absl::StatusOr<ModelConfig> mixtral = BenchModelConfig("mixtral-8x7b", 2);
  ASSERT_TRUE(mixtral.ok());
  EXPECT_EQ(mixtral->num_hidden_layers, 2);
  EXPECT_TRUE(mixtral->is_moe());
  EXPECT_EQ(BenchModelConfig("llama-3-8b", 0)->num_hidden_layers, 32);
  const absl::StatusOr<ModelConfig> tiny = BenchModelConfig(TestData() + "/tiny-mixtral", 0);
  ASSERT_TRUE(tiny.ok()) << tiny.status();
  EXPECT_GT(tiny->num_local_experts, 0);
  EXPECT_EQ(BenchModelConfig("gpt-5", 0).status().code(), absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace intermix
