// Quantised GEMM for many tokens per expert: bound by mma.
//
// Blocks stay resident and walk over whole tiles of (expert, rows, out features), loading the next
// tile while they store the last. Tiles are 256 out features by 128 tokens, or 128 by 128 where
// partial sums take half of the registers.
#pragma once

#include <cuda_runtime.h>

#include "kernels/cuda/gemm_select.h"
#include "kernels/cuda/gemm_types.h"

namespace intermix::cuda {

// Runs the experts whose mode is `mode`; the others' rows are not written. Stream-ordered.
//   plan  a tile of the family kLargeM that runs the mode
void LaunchGemmLargeM(const GemmArgs& args, GemmMode mode, const GemmPlan& plan,
                      cudaStream_t stream);

}  // namespace intermix::cuda
