// Launcher of the norm, with or without a sum in front of it; see Backend::RmsNorm and AddRmsNorm.
// Stream-ordered; nothing is allocated. Bit-identical to ReferenceBackend. Tensors lie on the
// device; rows may be strided. 16-byte accesses where every row allows them.
#pragma once

#include <cuda_runtime.h>

#include "kernels/core/tensor.h"
#include "kernels/cuda/model_limits.h"
#include "kernels/operands.h"

namespace intermix::cuda {

struct RmsNormArgs {
  Delta delta;      // of no rows: nothing is added
  Tensor residual;  // [tokens, K] float32; K is at most kMaxNormWidth
  Norm norm;
  NormedRows out;
  // No kernel that may still run writes delta.row_of and delta.weights: read before the wait.
  bool slots_are_old = false;
};
void RmsNorm(const RmsNormArgs& args, cudaStream_t stream);

}  // namespace intermix::cuda
