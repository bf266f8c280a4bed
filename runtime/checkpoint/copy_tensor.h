// What every checkpoint does with the tensors that are not quantised: Checkpoint::LoadTensor and
// Checkpoint::ExactDType over a model's files.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "comm/sharding.h"
#include "kernels/core/buffer.h"
#include "runtime/checkpoint/tensor_files.h"

namespace intermix {

struct CopyRequest {
  std::string name;  // "model.norm.weight"
  int64_t n = 0;     // its whole shape [n, k]; n = 1 also stands for [k]
  int64_t k = 0;
  Slice rows;
  Slice cols;
  DType dtype = DType::kF32;  // kF32 or kBF16; must hold the values exactly
};

// A copy of rows and columns of a tensor, [rows, cols], or [cols] where the tensor has rank 1.
absl::StatusOr<OwnedTensor> CopyTensor(const TensorFiles& files, const CopyRequest& request);

// kBF16, or kF32 for float32 and float16 tensors.
absl::StatusOr<DType> ExactDTypeOf(const TensorFiles& files, const std::string& name);

}  // namespace intermix
