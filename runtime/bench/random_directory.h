// A Hugging Face directory of any dimensions with random bfloat16 weights, for what reads one from
// a disk.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "runtime/model/model_config.h"

namespace intermix {

// Writes config.json and model.safetensors into `directory`, which is there. Tensors of one shape
// have the same values.
//   UNAVAILABLE: the disk.
absl::Status WriteRandomDirectory(const ModelConfig& config, const std::string& directory);

}  // namespace intermix
