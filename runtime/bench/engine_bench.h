// What a step costs outside the kernels: requests through the whole engine (scheduling, the batch's
// way to the other ranks, their exchanges, sampling, delivery), minus the time in the backend.
#pragma once

#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "comm/communicator.h"
#include "runtime/bench/model_bench.h"
#include "runtime/bench/table.h"
#include "runtime/engine/rank.h"

namespace intermix {

struct EngineBenchOptions {
  RankOptions rank;
  int32_t generate = 256;              // tokens of each sequence
  std::vector<int32_t> batches = {1};  // sequences that generate together
  int turns = 5;
  BenchProgress progress;
};

// Loads the model and answers greedy requests of short prompts. Collective over `world`. One table,
// on rank 0: each batch's time per step, in kernels and outside them, the median of the turns.
// Outside is also where rank 0 waits for the kernels of other ranks.
absl::StatusOr<std::vector<Table>> BenchEngine(const EngineBenchOptions& options,
                                               std::unique_ptr<Communicator> world);

}  // namespace intermix
