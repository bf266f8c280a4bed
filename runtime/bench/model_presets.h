// The dimensions of well-known models, for measurements without their weights.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "runtime/model/model_config.h"

namespace intermix {

// "mixtral-8x7b", "llama-3-8b", or a directory that holds a config.json; `layers` of them, or all
// where it is 0.
//   INVALID_ARGUMENT or NOT_FOUND: says what `name` may be.
absl::StatusOr<ModelConfig> BenchModelConfig(const std::string& name, int64_t layers);

}  // namespace intermix
