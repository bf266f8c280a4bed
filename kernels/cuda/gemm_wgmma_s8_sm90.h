// Quantised GEMM for many tokens per expert on Hopper's wgmma, which runs at nearly twice the rate
// of mma.sync.
//
// A warpgroup unpacks its weights to int8 in registers while the tensor cores work on what it
// unpacked before: weights are the A operand in registers, tokens the B operand in shared memory.
// Tiles are 256 out features by 128 tokens, or 128 by 128 where partial sums take half of the
// registers.
#pragma once

#include <cuda_runtime.h>

#include "kernels/cuda/gemm_select.h"
#include "kernels/cuda/gemm_types.h"

namespace intermix::cuda {

// Runs the experts whose mode is `mode`; the others' rows are not written. Stream-ordered. For
// devices of compute capability 9.0.
//   plan  a tile of the family kWgmma that runs the mode
void LaunchGemmWgmma(const GemmArgs& args, GemmMode mode, const GemmPlan& plan,
                     cudaStream_t stream);

}  // namespace intermix::cuda
