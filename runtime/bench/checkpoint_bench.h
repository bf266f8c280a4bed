// How fast model files become a model: quantising a Hugging Face directory, and loading what comes
// of it, beside how fast the page cache gives the same bytes. One thread and its helpers.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "kernels/core/thread_pool.h"
#include "kernels/quant/integer_scale.h"
#include "runtime/bench/model_bench.h"
#include "runtime/bench/table.h"
#include "runtime/model/model_config.h"

namespace intermix {

struct CheckpointBenchOptions {
  ModelConfig config;
  QuantSpec quant;
  std::string scratch;        // where a folder of the bench is made, and removed at the end
  ThreadPoolOptions threads;  // that read the page cache; as many as the backend's
  int turns = 5;
  BenchProgress progress;
};

// Writes a random model, quantises it, loads it, in turns with reading its file. Two tables:
// "checkpoint", the speeds; "resident", what memory a load takes at its peak.
//   UNAVAILABLE: the disk.
absl::StatusOr<std::vector<Table>> BenchCheckpoint(const CheckpointBenchOptions& options,
                                                   Backend& backend);

}  // namespace intermix
