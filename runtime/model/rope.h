// Rotary position tables, computed in double and stored as float32 (numerics.md, "The rest of the
// forward pass"). Scaling follows Hugging Face transformers' `default`, `linear` and `llama3`.
#pragma once

#include <cstdint>

#include "kernels/core/buffer.h"
#include "runtime/model/model_config.h"

namespace intermix {

// [positions, head_dim] float32: cos of each frequency in the first half of a row, sin in the
// second.
OwnedTensor MakeRopeTable(const ModelConfig& config, int64_t positions);

}  // namespace intermix
