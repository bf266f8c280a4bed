// How fast a whole model steps: weights of the true dimensions and random values, no scheduler and
// no sampling. One thread on each rank.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "comm/communicator.h"
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
  int tp = 0;                          // as ParallelLayout::Make has them
  int ep = 0;
  int cut = 1;
  int local_size = 1;  // ranks of this host, which share its memory
  BenchProgress progress;
};

// Two tables: "model", one row for the prompt and one for each batch; "ops", the time of each by
// op. Tokens are those of all ranks; work, limits and ops are this rank's. `timer` holds the limits
// of `backend`. Collective over `world`.
//   INVALID_ARGUMENT: the options exceed the model's context, or its ranks do not divide it.
//   FAILED_PRECONDITION: some rank's memory does not hold its shard and cache.
absl::StatusOr<std::vector<Table>> BenchModel(const ModelBenchOptions& options, Backend& backend,
                                              std::unique_ptr<Communicator> world,
                                              TurnTimer& timer);

}  // namespace intermix
