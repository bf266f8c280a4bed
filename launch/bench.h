// What `intermix bench` measures, by its options. One thread on each rank; `model` and `engine`
// also under mpirun, where rank 0 has the tables and the others have none.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "launch/quant_options.h"
#include "runtime/bench/table.h"
#include "runtime/engine/rank.h"

namespace intermix {

struct BenchOptions {
  RankOptions rank;
  std::string format = "md";
  std::string clock = "wall";
  int turns = 5;
  std::string config = "mixtral-8x7b";
  int64_t layers = 0;
  QuantOptions quant;
  int32_t prompt = 512;
  int32_t generate = 64;
  int32_t context = 512;
  std::vector<int32_t> batches = {1, 8, 32};
  std::vector<int64_t> tokens = {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096};
  std::vector<int64_t> contexts = {128, 1024, 8192, 32768};
  std::string filter;
  std::string scratch;  // empty: the system's folder for temporary files
};

using BenchTables = absl::StatusOr<std::vector<Table>>;

// Progress goes to stderr, one line that says what is being measured.
BenchTables BenchPeakCommand(const BenchOptions& options);
BenchTables BenchKernelsCommand(const BenchOptions& options);
BenchTables BenchModelCommand(const BenchOptions& options);
BenchTables BenchEngineCommand(const BenchOptions& options);
BenchTables BenchCheckpointCommand(const BenchOptions& options);

}  // namespace intermix
