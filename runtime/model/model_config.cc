#include "runtime/model/model_config.h"

#include <limits>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "runtime/model/json_fields.h"

namespace intermix {
namespace {

using nlohmann::json;

// Bounds far beyond any model, and small enough that no product of a few of them overflows int64.
constexpr int64_t kMaxWidth = int64_t{1} << 20;  // hidden, intermediate, heads * head_dim
constexpr int64_t kMaxVocabSize = int64_t{1} << 24;
constexpr int64_t kMaxPositions = int64_t{1} << 24;
constexpr int64_t kMaxLayers = 4096;
constexpr int64_t kMaxHeads = 8192;
constexpr int64_t kMaxHeadDim = 8192;
constexpr int64_t kMaxExperts = 4096;
constexpr char kMixtral[] = "MixtralForCausalLM";
constexpr char kLlama[] = "LlamaForCausalLM";

std::string ReadArchitecture(JsonFields& fields) {
  const json* list = fields.Find("architectures");
  if (list == nullptr) {
    const std::string type = fields.String("model_type", "");
    if (type == "mixtral") return kMixtral;
    if (type == "llama") return kLlama;
    fields.Fail("field architectures is missing");
    return "";
  }
  if (!list->is_array() || list->size() != 1 || !(*list)[0].is_string()) {
    fields.Fail("architectures is not a list of one name");
    return "";
  }
  const std::string name = (*list)[0].get<std::string>();
  if (name != kMixtral && name != kLlama) {
    fields.Fail(absl::StrCat("architecture ", ShortText((*list)[0]), " is not supported; ",
                             kMixtral, " and ", kLlama, " are"));
  }
  return name;
}

void ReadSizes(JsonFields& fields, ModelConfig& config) {
  config.vocab_size = fields.Integer("vocab_size", 1, kMaxVocabSize);
  config.hidden_size = fields.Integer("hidden_size", 1, kMaxWidth);
  config.intermediate_size = fields.Integer("intermediate_size", 1, kMaxWidth);
  config.num_hidden_layers = fields.Integer("num_hidden_layers", 1, kMaxLayers);
  config.num_attention_heads = fields.Integer("num_attention_heads", 1, kMaxHeads);
  config.num_key_value_heads = fields.Integer("num_key_value_heads", 1, config.num_attention_heads,
                                              config.num_attention_heads);
  if (config.num_attention_heads % config.num_key_value_heads != 0) {
    fields.Fail(absl::StrCat("num_attention_heads ", config.num_attention_heads,
                             " is not a multiple of num_key_value_heads ",
                             config.num_key_value_heads));
  }
  if (fields.Find("head_dim") == nullptr && config.hidden_size % config.num_attention_heads != 0) {
    fields.Fail(absl::StrCat("hidden_size ", config.hidden_size,
                             " is not a multiple of num_attention_heads ",
                             config.num_attention_heads, " and there is no head_dim"));
  }
  config.head_dim =
      fields.Integer("head_dim", 1, kMaxHeadDim, config.hidden_size / config.num_attention_heads);
  if (config.head_dim > kMaxHeadDim) {
    fields.Fail(absl::StrCat("head_dim ", config.head_dim, " is above ", kMaxHeadDim));
  }
  if (config.head_dim % 2 != 0) {
    fields.Fail(absl::StrCat("head_dim ", config.head_dim, " is odd; RoPE turns pairs"));
  }
  if (config.num_attention_heads * config.head_dim > kMaxWidth) {
    fields.Fail(absl::StrCat("num_attention_heads * head_dim is ",
                             config.num_attention_heads * config.head_dim, ", above ", kMaxWidth));
  }
}

void ReadExperts(JsonFields& fields, ModelConfig& config) {
  if (config.architecture != kMixtral) return;
  config.num_local_experts = fields.Integer("num_local_experts", 1, kMaxExperts);
  config.num_experts_per_tok = fields.Integer("num_experts_per_tok", 1, config.num_local_experts);
}

// The classic form is rope_theta beside a rope_scaling object; transformers 5 writes one
// rope_parameters object that holds rope_theta too.
void ReadRope(JsonFields& fields, ModelConfig& config) {
  const double default_theta = config.architecture == kMixtral ? 1e6 : 1e4;
  config.rope_theta = fields.Number("rope_theta", 1.0, 1e15, default_theta);
  const json* scaling = fields.Find("rope_parameters");
  const std::string where = scaling != nullptr ? "rope_parameters" : "rope_scaling";
  if (scaling == nullptr) scaling = fields.Find("rope_scaling");
  if (scaling == nullptr) return;

  JsonFields rope(*scaling, where);
  RopeScaling& result = config.rope_scaling;
  config.rope_theta = rope.Number("rope_theta", 1.0, 1e15, config.rope_theta);
  const std::string type = rope.String("rope_type", rope.String("type", "default"));
  const double rotary = rope.Number("partial_rotary_factor", 0.0, 1.0, 1.0);
  if (rotary != 1.0) rope.Fail("a partial_rotary_factor below 1 is not supported");
  if (type == "linear") {
    result.type = RopeScaling::Type::kLinear;
    result.factor = rope.Number("factor", 1e-3, 1e6);
  } else if (type == "llama3") {
    result.type = RopeScaling::Type::kLlama3;
    result.factor = rope.Number("factor", 1e-3, 1e6);
    result.low_freq_factor = rope.Number("low_freq_factor", 1e-6, 1e6);
    result.high_freq_factor = rope.Number("high_freq_factor", 1e-6, 1e6);
    result.original_max_position_embeddings = rope.Integer(
        "original_max_position_embeddings", 1, kMaxPositions, config.max_position_embeddings);
    if (result.high_freq_factor <= result.low_freq_factor) {
      rope.Fail("high_freq_factor is not above low_freq_factor");
    }
  } else if (type != "default") {
    rope.Fail(absl::StrCat("rope_type ", ShortText(json(type)),
                           " is not supported; default, linear and llama3 are"));
  }
  for (const json& value : *scaling) {
    if (value.is_object()) rope.Fail("RoPE per layer type is not supported");
  }
  if (!rope.status().ok()) fields.Fail(std::string(rope.status().message()));
}

void RefuseUnsupported(JsonFields& fields, const ModelConfig& config) {
  const std::string act = fields.String("hidden_act", "silu");
  if (act != "silu") {
    fields.Fail(
        absl::StrCat("hidden_act ", ShortText(json(act)), " is not supported; only silu is"));
  }
  for (const char* bias : {"attention_bias", "mlp_bias"}) {
    if (fields.Boolean(bias, false)) fields.Fail(absl::StrCat(bias, " is not supported"));
  }
  if (fields.Number("partial_rotary_factor", 0.0, 1.0, 1.0) != 1.0) {
    fields.Fail("a partial_rotary_factor below 1 is not supported");
  }
  const int64_t window = fields.Integer("sliding_window", 0, std::numeric_limits<int64_t>::max(),
                                        config.max_position_embeddings);
  if (window < config.max_position_embeddings) {
    fields.Fail(absl::StrCat("sliding_window ", window, " is shorter than max_position_embeddings ",
                             config.max_position_embeddings, ", which is not supported"));
  }
}

void ReadSpecialTokens(JsonFields& fields, ModelConfig& config) {
  const int64_t last = config.vocab_size - 1;
  config.bos_token_id = static_cast<int32_t>(fields.Integer("bos_token_id", -1, last, -1));
  for (int64_t id : fields.Integers("eos_token_id", 0, last)) {
    config.eos_token_ids.push_back(static_cast<int32_t>(id));
  }
}

}  // namespace

ShardDims ModelConfig::shard_dims() const {
  return {.hidden_size = hidden_size,
          .intermediate_size = intermediate_size,
          .num_attention_heads = num_attention_heads,
          .num_key_value_heads = num_key_value_heads,
          .vocab_size = vocab_size,
          .num_experts = num_local_experts};
}

absl::StatusOr<ModelConfig> ModelConfig::FromJson(const json& object) {
  JsonFields fields(object, "config.json");
  ModelConfig config;
  config.architecture = ReadArchitecture(fields);
  const bool mixtral = config.architecture == kMixtral;
  config.max_position_embeddings =
      fields.Integer("max_position_embeddings", 1, kMaxPositions, mixtral ? 131072 : 2048);
  config.rms_norm_eps = fields.Number("rms_norm_eps", 1e-12, 1.0, mixtral ? 1e-5 : 1e-6);
  config.tie_word_embeddings = fields.Boolean("tie_word_embeddings", false);
  ReadSizes(fields, config);
  ReadExperts(fields, config);
  ReadRope(fields, config);
  RefuseUnsupported(fields, config);
  ReadSpecialTokens(fields, config);
  if (!fields.status().ok()) return fields.status();
  return config;
}

}  // namespace intermix
