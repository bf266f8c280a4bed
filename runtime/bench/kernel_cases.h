// The ops that `bench kernels` measures: each linear layer of a model in each weight format, its
// experts under even and skewed loads, attention at several contexts, and everything that works on
// rows. A case allocates only once it is prepared.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "kernels/backend.h"
#include "runtime/bench/work.h"
#include "runtime/model/model_config.h"

namespace intermix {

// An op on tensors of its own, ready to run over and over.
struct PreparedKernel {
  Work work;  // of one run
  std::function<void()> run;
};

struct KernelCase {
  std::string op;     // "linear"
  std::string shape;  // "o 4096x4096 integer folded W4 g128"
  int64_t tokens = 0;
  std::function<PreparedKernel(Backend& backend)> prepare;
};

struct KernelCaseOptions {
  ModelConfig config;
  std::vector<int64_t> tokens;    // rows of linear layers and row ops
  std::vector<int64_t> contexts;  // positions that attention reads
  DType kv_dtype = DType::kBF16;  // of the cache that it reads; or kI8
};

std::vector<KernelCase> LinearCases(const KernelCaseOptions& options);
std::vector<KernelCase> ExpertCases(const KernelCaseOptions& options);
std::vector<KernelCase> AttentionCases(const KernelCaseOptions& options);
std::vector<KernelCase> RowCases(const KernelCaseOptions& options);

// All of these, in this order.
std::vector<KernelCase> KernelCases(const KernelCaseOptions& options);

// How `rows` rows fall on experts: evenly, or each expert with half as many as the one before.
//   returns [experts + 1] row offsets
std::vector<int32_t> EvenLoad(int64_t rows, int64_t experts);
std::vector<int32_t> SkewedLoad(int64_t rows, int64_t experts);

}  // namespace intermix
