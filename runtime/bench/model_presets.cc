#include "runtime/bench/model_presets.h"

#include <filesystem>

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "runtime/model/json_file.h"

namespace intermix {
namespace {

ModelConfig Mixtral8x7b() {
  return {.architecture = "MixtralForCausalLM",
          .vocab_size = 32000,
          .hidden_size = 4096,
          .intermediate_size = 14336,
          .num_hidden_layers = 32,
          .num_attention_heads = 32,
          .num_key_value_heads = 8,
          .head_dim = 128,
          .num_local_experts = 8,
          .num_experts_per_tok = 2,
          .max_position_embeddings = 32768,
          .rope_theta = 1e6};
}

ModelConfig Llama3With8b() {
  return {.architecture = "LlamaForCausalLM",
          .vocab_size = 128256,
          .hidden_size = 4096,
          .intermediate_size = 14336,
          .num_hidden_layers = 32,
          .num_attention_heads = 32,
          .num_key_value_heads = 8,
          .head_dim = 128,
          .max_position_embeddings = 8192,
          .rope_theta = 5e5};
}

absl::StatusOr<ModelConfig> OfName(const std::string& name) {
  if (name == "mixtral-8x7b") return Mixtral8x7b();
  if (name == "llama-3-8b") return Llama3With8b();
  if (!std::filesystem::is_directory(name)) {
    return absl::NotFoundError(
        absl::StrCat("--config ", name,
                     " is neither mixtral-8x7b nor llama-3-8b nor a directory with a config.json"));
  }
  absl::StatusOr<nlohmann::json> json = ReadJsonFile(name + "/config.json");
  if (!json.ok()) return json.status();
  return ModelConfig::FromJson(*json);
}

}  // namespace

absl::StatusOr<ModelConfig> BenchModelConfig(const std::string& name, int64_t layers) {
  absl::StatusOr<ModelConfig> config = OfName(name);
  if (config.ok() && layers > 0) config->num_hidden_layers = layers;
  return config;
}

}  // namespace intermix
