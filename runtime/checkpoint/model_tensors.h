// Which tensors a model consists of, by their Hugging Face names: a pure function of its config.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "kernels/quant/integer_scale.h"
#include "runtime/model/model_config.h"

namespace intermix {

inline constexpr char kLmHead[] = "lm_head";
inline constexpr char kEmbedding[] = "model.embed_tokens";

struct ModelTensor {
  std::string layer;           // "model.layers.0.self_attn.q_proj"; its tensor is layer + ".weight"
  std::vector<int64_t> shape;  // [out features, in features], or [k] for a norm
  bool linear = false;         // quantised; the rest stays as it is
};

// Calls `visit` for every tensor, in the order of the forward pass, until it returns an error.
// A tied lm_head is listed like any other, though its weight is the embedding's.
absl::Status ForEachModelTensor(const ModelConfig& config,
                                const std::function<absl::Status(const ModelTensor&)>& visit);

// The layer whose ".weight" holds the values of `layer`: itself, but for a tied lm_head.
std::string SourceLayer(const ModelConfig& config, const std::string& layer);

// What `layer` is quantised under: `spec`, but 8 bits and wide channel scales for lm_head.
QuantSpec SpecForLayer(const QuantSpec& spec, const std::string& layer);

// INVALID_ARGUMENT "hidden_size 576 is not a multiple of group size 128; use 64" where `spec` does
// not fit the model.
absl::Status CheckGroupSize(const ModelConfig& config, const QuantSpec& spec);

}  // namespace intermix
