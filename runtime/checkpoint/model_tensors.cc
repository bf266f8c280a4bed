#include "runtime/checkpoint/model_tensors.h"

#include <array>
#include <utility>

#include "absl/strings/str_cat.h"

namespace intermix {
namespace {

using Visit = std::function<absl::Status(const ModelTensor&)>;

absl::Status VisitAll(const std::vector<ModelTensor>& tensors, const Visit& visit) {
  for (const ModelTensor& tensor : tensors) {
    if (absl::Status s = visit(tensor); !s.ok()) return s;
  }
  return absl::OkStatus();
}

absl::Status VisitFeedForward(const ModelConfig& config, const std::string& prefix,
                              const Visit& visit) {
  const int64_t hidden = config.hidden_size;
  const int64_t intermediate = config.intermediate_size;
  if (!config.is_moe()) {
    const std::string mlp = absl::StrCat(prefix, "mlp.");
    return VisitAll({{mlp + "gate_proj", {intermediate, hidden}, true},
                     {mlp + "up_proj", {intermediate, hidden}, true},
                     {mlp + "down_proj", {hidden, intermediate}, true}},
                    visit);
  }
  const std::string moe = absl::StrCat(prefix, "block_sparse_moe.");
  if (absl::Status s = visit({moe + "gate", {config.num_local_experts, hidden}, false}); !s.ok()) {
    return s;
  }
  for (int64_t e = 0; e < config.num_local_experts; ++e) {
    const std::string expert = absl::StrCat(moe, "experts.", e, ".");
    if (absl::Status s = VisitAll({{expert + "w1", {intermediate, hidden}, true},
                                   {expert + "w2", {hidden, intermediate}, true},
                                   {expert + "w3", {intermediate, hidden}, true}},
                                  visit);
        !s.ok()) {
      return s;
    }
  }
  return absl::OkStatus();
}

absl::Status VisitLayer(const ModelConfig& config, int64_t layer, const Visit& visit) {
  const std::string prefix = absl::StrCat("model.layers.", layer, ".");
  const std::string attention = prefix + "self_attn.";
  const int64_t hidden = config.hidden_size;
  const int64_t q_size = config.num_attention_heads * config.head_dim;
  const int64_t kv_size = config.num_key_value_heads * config.head_dim;
  if (absl::Status s = VisitAll({{prefix + "input_layernorm", {hidden}, false},
                                 {attention + "q_proj", {q_size, hidden}, true},
                                 {attention + "k_proj", {kv_size, hidden}, true},
                                 {attention + "v_proj", {kv_size, hidden}, true},
                                 {attention + "o_proj", {hidden, q_size}, true},
                                 {prefix + "post_attention_layernorm", {hidden}, false}},
                                visit);
      !s.ok()) {
    return s;
  }
  return VisitFeedForward(config, prefix, visit);
}

}  // namespace

absl::Status ForEachModelTensor(const ModelConfig& config, const Visit& visit) {
  const std::vector<int64_t> vocab_shape = {config.vocab_size, config.hidden_size};
  if (absl::Status s = visit({kEmbedding, vocab_shape, false}); !s.ok()) return s;
  for (int64_t layer = 0; layer < config.num_hidden_layers; ++layer) {
    if (absl::Status s = VisitLayer(config, layer, visit); !s.ok()) return s;
  }
  return VisitAll({{"model.norm", {config.hidden_size}, false}, {kLmHead, vocab_shape, true}},
                  visit);
}

std::string SourceLayer(const ModelConfig& config, const std::string& layer) {
  return config.tie_word_embeddings && layer == kLmHead ? kEmbedding : layer;
}

QuantSpec SpecForLayer(const QuantSpec& spec, const std::string& layer) {
  QuantSpec result = spec;
  if (layer != kLmHead || spec.scheme == Scheme::kNone) return result;
  result.bits = 8;
  result.scales = ScaleChoice::kAuto;
  result.amplifier = {};
  return result;
}

absl::Status CheckGroupSize(const ModelConfig& config, const QuantSpec& spec) {
  if (spec.scheme == Scheme::kNone) return absl::OkStatus();
  const std::array<std::pair<const char*, int64_t>, 3> dims{{
      {"hidden_size", config.hidden_size},
      {"intermediate_size", config.intermediate_size},
      {"num_attention_heads * head_dim", config.num_attention_heads * config.head_dim},
  }};
  const auto divides_all = [&](int64_t size) {
    for (const auto& [name, dim] : dims) {
      if (dim % size != 0) return false;
    }
    return true;
  };
  for (const auto& [name, dim] : dims) {
    if (spec.group_size == 0) {
      if (dim % 2 == 0 || spec.bits == 8) continue;
      return absl::InvalidArgumentError(
          absl::StrCat(name, " ", dim, " is odd, so 4-bit codes do not fill bytes; use --bits 8"));
    }
    if (dim % spec.group_size == 0) continue;
    for (int64_t size : {128, 64, 32}) {
      if (!divides_all(size)) continue;
      return absl::InvalidArgumentError(absl::StrCat(
          name, " ", dim, " is not a multiple of group size ", spec.group_size, "; use ", size));
    }
    return absl::InvalidArgumentError(
        absl::StrCat(name, " ", dim, " is not a multiple of group size ", spec.group_size,
                     "; use 0, one group for a whole row"));
  }
  return absl::OkStatus();
}

}  // namespace intermix
