// config.json in the forms that transformers wrote over the years, and in forms that nobody should.
#include "runtime/model/model_config.h"

#include <filesystem>
#include <fstream>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "runtime/model/json_file.h"
#include "tests/testing/test_paths.h"

namespace intermix {
namespace {

using nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

json Mixtral() {
  return {{"architectures", {"MixtralForCausalLM"}},
          {"vocab_size", 32000},
          {"hidden_size", 4096},
          {"intermediate_size", 14336},
          {"num_hidden_layers", 32},
          {"num_attention_heads", 32},
          {"num_key_value_heads", 8},
          {"num_local_experts", 8},
          {"num_experts_per_tok", 2},
          {"hidden_act", "silu"},
          {"max_position_embeddings", 32768},
          {"rms_norm_eps", 1e-5},
          {"rope_theta", 1e6},
          {"sliding_window", nullptr},
          {"tie_word_embeddings", false},
          {"bos_token_id", 1},
          {"eos_token_id", 2}};
}

json Llama() {
  json config = Mixtral();
  config["architectures"] = {"LlamaForCausalLM"};
  for (const char* field : {"num_local_experts", "num_experts_per_tok", "num_key_value_heads",
                            "rope_theta", "rms_norm_eps", "max_position_embeddings"}) {
    config.erase(field);
  }
  return config;
}

ModelConfig Read(const json& config) {
  absl::StatusOr<ModelConfig> result = ModelConfig::FromJson(config);
  EXPECT_TRUE(result.ok()) << result.status();
  return result.value_or(ModelConfig());
}

std::string Refusal(const json& config) {
  const absl::Status status = ModelConfig::FromJson(config).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << config.dump();
  return std::string(status.message());
}

json With(json config, const std::string& field, const json& value) {
  config[field] = value;
  return config;
}

json Without(json config, const std::string& field) {
  config.erase(field);
  return config;
}

TEST(ModelConfig, ReadsMixtral) {
  const ModelConfig config = Read(Mixtral());
  EXPECT_EQ(config.architecture, "MixtralForCausalLM");
  EXPECT_TRUE(config.is_moe());
  EXPECT_EQ(config.vocab_size, 32000);
  EXPECT_EQ(config.hidden_size, 4096);
  EXPECT_EQ(config.intermediate_size, 14336);
  EXPECT_EQ(config.num_hidden_layers, 32);
  EXPECT_EQ(config.num_attention_heads, 32);
  EXPECT_EQ(config.num_key_value_heads, 8);
  EXPECT_EQ(config.head_dim, 128);
  EXPECT_EQ(config.num_local_experts, 8);
  EXPECT_EQ(config.num_experts_per_tok, 2);
  EXPECT_EQ(config.max_position_embeddings, 32768);
  EXPECT_EQ(config.rms_norm_eps, 1e-5);
  EXPECT_EQ(config.rope_theta, 1e6);
  EXPECT_EQ(config.rope_scaling.type, RopeScaling::Type::kDefault);
  EXPECT_FALSE(config.tie_word_embeddings);
  EXPECT_EQ(config.bos_token_id, 1);
  EXPECT_THAT(config.eos_token_ids, ElementsAre(2));
  EXPECT_EQ(config.shard_dims().num_experts, 8);
  EXPECT_EQ(config.shard_dims().num_key_value_heads, 8);
}

TEST(ModelConfig, FillsInWhatOldLlamaFilesLeaveOut) {
  const ModelConfig config = Read(Llama());
  EXPECT_FALSE(config.is_moe());
  EXPECT_EQ(config.num_key_value_heads, 32);
  EXPECT_EQ(config.rope_theta, 1e4);
  EXPECT_EQ(config.rms_norm_eps, 1e-6);
  EXPECT_EQ(config.max_position_embeddings, 2048);
  EXPECT_EQ(Read(Without(Mixtral(), "rope_theta")).rope_theta, 1e6);
}

TEST(ModelConfig, TakesTheArchitectureFromTheModelType) {
  const json config = Without(With(Mixtral(), "model_type", "mixtral"), "architectures");
  EXPECT_EQ(Read(config).architecture, "MixtralForCausalLM");
}

TEST(ModelConfig, ReadsAnyHeadDim) {
  EXPECT_EQ(Read(With(Llama(), "head_dim", 96)).head_dim, 96);
  EXPECT_EQ(Read(With(Llama(), "head_dim", nullptr)).head_dim, 128);
}

TEST(ModelConfig, ReadsEosAsOneOrManyOrNone) {
  EXPECT_THAT(Read(With(Llama(), "eos_token_id", {3, 5})).eos_token_ids, ElementsAre(3, 5));
  EXPECT_THAT(Read(With(Llama(), "eos_token_id", nullptr)).eos_token_ids, IsEmpty());
  EXPECT_EQ(Read(With(Llama(), "bos_token_id", nullptr)).bos_token_id, -1);
}

TEST(ModelConfig, ReadsClassicRopeScaling) {
  const ModelConfig linear =
      Read(With(Llama(), "rope_scaling", {{"type", "linear"}, {"factor", 4.0}}));
  EXPECT_EQ(linear.rope_scaling.type, RopeScaling::Type::kLinear);
  EXPECT_EQ(linear.rope_scaling.factor, 4.0);
  json scaling = {{"rope_type", "llama3"},
                  {"factor", 8.0},
                  {"low_freq_factor", 1.0},
                  {"high_freq_factor", 4.0},
                  {"original_max_position_embeddings", 8192}};
  const ModelConfig llama3 = Read(With(With(Llama(), "rope_scaling", scaling), "rope_theta", 5e5));
  EXPECT_EQ(llama3.rope_scaling.type, RopeScaling::Type::kLlama3);
  EXPECT_EQ(llama3.rope_scaling.factor, 8.0);
  EXPECT_EQ(llama3.rope_scaling.low_freq_factor, 1.0);
  EXPECT_EQ(llama3.rope_scaling.high_freq_factor, 4.0);
  EXPECT_EQ(llama3.rope_scaling.original_max_position_embeddings, 8192);
  EXPECT_EQ(llama3.rope_theta, 5e5);
}

TEST(ModelConfig, ReadsRopeParametersOfTransformers5) {
  json rope = {{"rope_type", "linear"}, {"factor", 2}, {"rope_theta", 123456.0}};
  const ModelConfig linear = Read(With(Mixtral(), "rope_parameters", rope));
  EXPECT_EQ(linear.rope_scaling.type, RopeScaling::Type::kLinear);
  EXPECT_EQ(linear.rope_scaling.factor, 2.0);
  EXPECT_EQ(linear.rope_theta, 123456.0) << "rope_parameters come before rope_theta";
  rope = {{"rope_type", "default"}, {"rope_theta", 5e4}};
  EXPECT_EQ(Read(With(Without(Mixtral(), "rope_theta"), "rope_parameters", rope)).rope_theta, 5e4);
}

TEST(ModelConfig, RefusesOtherRope) {
  for (const char* type : {"yarn", "dynamic", "longrope", ""}) {
    EXPECT_THAT(Refusal(With(Llama(), "rope_scaling", {{"type", type}, {"factor", 2.0}})),
                HasSubstr("default, linear and llama3 are"));
  }
  EXPECT_THAT(Refusal(With(Llama(), "rope_scaling", {{"type", "linear"}})), HasSubstr("factor"));
  EXPECT_THAT(Refusal(With(Llama(), "rope_scaling", {{"type", "linear"}, {"factor", 0}})),
              HasSubstr("factor"));
  EXPECT_THAT(
      Refusal(With(
          Llama(), "rope_scaling",
          {{"type", "llama3"}, {"factor", 8}, {"low_freq_factor", 4}, {"high_freq_factor", 4}})),
      HasSubstr("high_freq_factor is not above low_freq_factor"));
  EXPECT_THAT(
      Refusal(With(Llama(), "rope_parameters", {{"full_attention", {{"rope_type", "default"}}}})),
      HasSubstr("per layer type"));
  EXPECT_THAT(Refusal(With(Llama(), "partial_rotary_factor", 0.5)), HasSubstr("partial_rotary"));
  Refusal(With(Llama(), "rope_scaling", "linear"));
  Refusal(With(Llama(), "rope_scaling", {1, 2}));
}

TEST(ModelConfig, NamesAMissingField) {
  for (const char* field :
       {"architectures", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
        "num_attention_heads", "num_local_experts", "num_experts_per_tok"}) {
    EXPECT_THAT(Refusal(Without(Mixtral(), field)), HasSubstr(field));
  }
}

TEST(ModelConfig, RefusesWhatIsNotSupported) {
  EXPECT_THAT(Refusal(With(Llama(), "hidden_act", "gelu")), HasSubstr("only silu"));
  EXPECT_THAT(Refusal(With(Llama(), "attention_bias", true)), HasSubstr("attention_bias"));
  EXPECT_THAT(Refusal(With(Llama(), "mlp_bias", true)), HasSubstr("mlp_bias"));
  EXPECT_THAT(Refusal(With(Mixtral(), "sliding_window", 4096)), HasSubstr("sliding_window 4096"));
  EXPECT_TRUE(ModelConfig::FromJson(With(Mixtral(), "sliding_window", 32768)).ok());
  EXPECT_THAT(Refusal(With(Llama(), "architectures", {"GPT2LMHeadModel"})),
              HasSubstr("GPT2LMHeadModel"));
  Refusal(With(Llama(), "architectures", json::array()));
  Refusal(With(Llama(), "architectures", "LlamaForCausalLM"));
}

TEST(ModelConfig, RefusesEveryFieldOfAWrongTypeOrSize) {
  for (const char* field :
       {"vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
        "num_attention_heads", "num_key_value_heads", "head_dim", "num_local_experts",
        "num_experts_per_tok", "max_position_embeddings"}) {
    for (const json& bad :
         {json("8"), json(1.5), json(0), json(-8), json(1LL << 40), json(INT64_MAX),
          json(UINT64_MAX), json(INT64_MIN), json::array(), json::object(), json(true)}) {
      EXPECT_THAT(Refusal(With(Mixtral(), field, bad)), HasSubstr(field));
    }
  }
  for (const char* field : {"rms_norm_eps", "rope_theta"}) {
    for (const json& bad : {json("x"), json(-1), json(0), json(1e300)}) {
      EXPECT_THAT(Refusal(With(Mixtral(), field, bad)), HasSubstr(field));
    }
  }
  EXPECT_THAT(Refusal(With(Mixtral(), "tie_word_embeddings", 1)), HasSubstr("tie_word_embeddings"));
  EXPECT_THAT(Refusal(With(Mixtral(), "eos_token_id", 32000)), HasSubstr("eos_token_id"));
  EXPECT_THAT(Refusal(With(Mixtral(), "eos_token_id", {1, -1})), HasSubstr("eos_token_id"));
  EXPECT_THAT(Refusal(With(Mixtral(), "bos_token_id", 32000)), HasSubstr("bos_token_id"));
  EXPECT_THAT(Refusal(With(Mixtral(), "eos_token_id", std::vector<int>(65, 1))),
              HasSubstr("65 entries"));
}

TEST(ModelConfig, RefusesNumbersThatDoNotFitEachOther) {
  EXPECT_THAT(Refusal(With(Mixtral(), "num_key_value_heads", 5)), HasSubstr("not a multiple"));
  EXPECT_THAT(Refusal(With(Mixtral(), "num_key_value_heads", 64)),
              HasSubstr("num_key_value_heads"));
  EXPECT_THAT(Refusal(With(Mixtral(), "num_experts_per_tok", 9)), HasSubstr("num_experts_per_tok"));
  EXPECT_THAT(Refusal(With(Mixtral(), "hidden_size", 4100)), HasSubstr("no head_dim"));
  EXPECT_THAT(Refusal(With(Mixtral(), "head_dim", 127)), HasSubstr("odd"));
}

TEST(ModelConfig, RefusesWhatIsNoObject) {
  for (const json& bad : {json::array(), json("text"), json(7), json(nullptr)}) Refusal(bad);
}

TEST(ModelConfig, ReadsEveryModelOfTheTestData) {
  int models = 0;
  for (const auto& entry : std::filesystem::directory_iterator(TestData())) {
    const std::string path = entry.path().string() + "/config.json";
    if (!std::filesystem::exists(path)) continue;
    const absl::StatusOr<json> file = ReadJsonFile(path);
    ASSERT_TRUE(file.ok()) << file.status();
    EXPECT_EQ(Read(*file).vocab_size, (*file)["vocab_size"]) << path;
    ++models;
  }
  EXPECT_GE(models, 7);
}

}  // namespace
}  // namespace intermix
