// What a model directory says about itself before any weight is read: config.json, whether it is
// one of our quantised directories, and the end-of-text tokens of generation_config.json.
#pragma once

#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"
#include "runtime/checkpoint/quantization_config.h"
#include "runtime/model/model_config.h"

namespace intermix {

struct ModelDirectory {
  nlohmann::json config_json;  // config.json as it stands
  ModelConfig config;          // eos_token_ids from generation_config.json where it names any
  std::optional<QuantizationConfig> quantization;  // none: a Hugging Face directory
};

//   NOT_FOUND, INVALID_ARGUMENT naming the file; INVALID_ARGUMENT for a directory that another
//   program quantised.
absl::StatusOr<ModelDirectory> ReadModelDirectory(const std::string& directory);

}  // namespace intermix
