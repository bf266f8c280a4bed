// Quantised GEMM for some 33 to 64 tokens per expert, and for fewer where there are partial sums.
// Floats have none but these tiles: the family kDecode would split their K.
//
// All (tile, 128 in-features) units are cut into equal contiguous shares, one per block, whatever
// the routing; where a share ends inside a tile, the blocks' sums meet in int32, which has no
// order. Tiles are 128 out features by 8, 16, 32 or 64 tokens; more tokens are right, only slower.
#pragma once

#include <cuda_runtime.h>

#include "kernels/cuda/gemm_select.h"
#include "kernels/cuda/gemm_types.h"

namespace intermix::cuda {

// Runs the experts whose mode is `mode`; the others' rows are not written. Stream-ordered;
// launches that share a workspace must share a stream.
//   plan  a tile of the family kSmallM
void LaunchGemmSmallM(const GemmArgs& args, GemmMode mode, const GemmPlan& plan,
                      cudaStream_t stream);

}  // namespace intermix::cuda
