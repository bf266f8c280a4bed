// Quantised GEMM for the few tokens per expert of a decode step: little more than a copy.
//
// A block takes whole tiles of 16 to 64 out features by 8 to 32 tokens. Its 2 to 8 warps take the
// stages of K in turns, each with a pipeline of its own that does not drain between tiles; the
// warps' int32 sums, which have no order, meet in shared memory. Nothing is shared between blocks:
// no atomics, no fence, no second pass. More tokens are right, only slower.
#pragma once

#include <cuda_runtime.h>

#include "kernels/cuda/gemm_select.h"
#include "kernels/cuda/gemm_types.h"

namespace intermix::cuda {

// Runs the experts whose mode is `mode`; the others' rows are not written. Stream-ordered.
//   mode  sums in integers
//   plan  a tile of the family kDecode
void LaunchGemmDecode(const GemmArgs& args, GemmMode mode, const GemmPlan& plan,
                      cudaStream_t stream);

}  // namespace intermix::cuda
