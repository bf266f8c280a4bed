// ModelConfig: the dimensions of a MixtralForCausalLM or LlamaForCausalLM, as config.json gives
// them (Hugging Face transformers' names). A plain value.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "comm/sharding.h"
#include "nlohmann/json_fwd.hpp"

namespace intermix {

struct RopeScaling {
  enum class Type : uint8_t { kDefault, kLinear, kLlama3 };
  Type type = Type::kDefault;
  double factor = 1.0;
  double low_freq_factor = 1.0;                     // llama3
  double high_freq_factor = 4.0;                    // llama3
  int64_t original_max_position_embeddings = 8192;  // llama3
};

struct ModelConfig {
  std::string architecture;  // "MixtralForCausalLM" or "LlamaForCausalLM"
  int64_t vocab_size = 0;
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;
  int64_t num_hidden_layers = 0;
  int64_t num_attention_heads = 0;
  int64_t num_key_value_heads = 0;  // absent in old files: num_attention_heads
  int64_t head_dim = 0;             // absent or null: hidden_size / num_attention_heads
  int64_t num_local_experts = 0;    // 0: a dense model
  int64_t num_experts_per_tok = 0;
  int64_t max_position_embeddings = 2048;
  double rms_norm_eps = 1e-5;
  double rope_theta = 10000.0;
  RopeScaling rope_scaling;
  bool tie_word_embeddings = false;
  int32_t bos_token_id = -1;           // -1: none
  std::vector<int32_t> eos_token_ids;  // may be empty

  bool is_moe() const { return num_local_experts > 0; }
  ShardDims shard_dims() const;

  // Reads config.json. INVALID_ARGUMENT names the field that is missing, of the wrong type, out of
  // range, or asks for something unsupported (hidden_act other than silu, attention_bias, mlp_bias,
  // a sliding_window shorter than the context, other rope types, other architectures).
  static absl::StatusOr<ModelConfig> FromJson(const nlohmann::json& json);
};

}  // namespace intermix
