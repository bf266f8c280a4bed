// Which kernel runs a GEMM, and on how many blocks: a table of tiles and a cost in clocks.
// Pure host functions without CUDA; thread-safe. Any plan gives the same integers, so tuning the
// table never changes a result.
#pragma once

#include <cstdint>

#include "kernels/cuda/gemm_types.h"

namespace intermix::cuda {

// What is known on the host when a GEMM is launched or captured.
struct GemmProblem {
  GemmMode mode = GemmMode::kFolded4;
  int32_t n = 0;
  int32_t k = 0;
  int32_t experts = 1;
  int32_t rows = 0;  // at most, over all experts
  // Rows that an expert is likely to get; 0: rows / experts in the mean, some more and some less.
  // Only speed depends on it.
  int32_t rows_per_expert = 0;
};

// What matters of a device; the defaults are an H100's.
struct GemmDevice {
  int32_t sm_count = 132;
  int32_t shared_bytes_per_sm = 228 * 1024;
  int32_t shared_bytes_per_block = 227 * 1024;
  bool wgmma = true;  // compute capability 9.0
};

struct GemmPlan {
  int32_t tile = 0;       // of kGemmTiles
  int32_t blocks = 0;     // the grid; 0 where there is nothing to do
  int32_t min_units = 1;  // kSmallM: units of K that a block takes at least
};

// Shared memory of one block, the expert table included.
int32_t GemmSharedBytes(int32_t tile, GemmMode mode, int32_t experts);

// Estimated clocks of the problem on one tile. For comparing tiles, not for predicting time.
double GemmClocks(const GemmProblem& problem, int32_t tile, const GemmDevice& device);

// The cheapest tile that is compiled for the mode and fits the device.
GemmPlan SelectGemm(const GemmProblem& problem, const GemmDevice& device);

// The plan of one given tile: its grid.
GemmPlan PlanGemm(const GemmProblem& problem, int32_t tile, const GemmDevice& device);

// Bytes of GemmArgs::workspace that any plan for this device needs.
size_t GemmWorkspaceBytes(const GemmDevice& device);

}  // namespace intermix::cuda
