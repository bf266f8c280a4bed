// How much memory a rank will need for its part of a model, before anything is loaded. Pure
// functions.
#pragma once

#include <cstdint>

#include "comm/sharding.h"
#include "kernels/core/dtype.h"
#include "kernels/quant/integer_scale.h"
#include "runtime/model/model_config.h"

namespace intermix {

// Bytes of the weights that `plan` gives to a rank, stored under `spec`; within a few percent of
// Rank::weight_bytes.
int64_t WeightBytes(const ModelConfig& config, const QuantSpec& spec, const ShardPlan& plan);

// Bytes of its KV cache for one token.
int64_t KvBytesPerToken(const ModelConfig& config, const ShardPlan& plan, DType kv_dtype);

}  // namespace intermix
