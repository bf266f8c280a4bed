// How fast a whole model steps: weights of the true dimensions and random values, one rank, no
// scheduler and no sampling. One thread.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "kernels/quant/integer_scale.h"
#include "runtime/bench/table.h"
#include "runtime/bench/turn_timer.h"
#include "runtime/model/model_config.h"

namespace intermix {

// Says what is being done, for people.
using BenchProgress = std::function<void(const std::string& what)>;

struct ModelBenchOptions {
  ModelConfig config;
  QuantSpec quant;
  int32_t prompt = 512;                // tokens of the measured prompt; 0: none
  int32_t generate = 64;               // tokens of each sequence
  std::vector<int32_t> batches = {1};  // sequences that generate together, after `context` tokens
  int32_t context = 512;               // tokens before the generated ones
  DType kv_dtype = DType::kBF16;       // of the KV cache; or kI8
  BenchProgress progress;
};

// Two tables: "model", one row for the prompt and one for each batch; "ops", the time of each by
// op. `timer` holds the limits of `backend`.
//   INVALID_ARGUMENT: the options exceed the model's context.
absl::StatusOr<std::vector<Table>> BenchModel(const ModelBenchOptions& options, Backend& backend,
                                              TurnTimer& timer);

}  // namespace intermix
