// Launching a quantised GEMM by plan, whichever family it belongs to. What CudaBackend calls.
#pragma once

#include <cuda_runtime.h>

#include "kernels/cuda/gemm_select.h"
#include "kernels/cuda/gemm_types.h"

namespace intermix::cuda {

// y = x . w^T of every expert whose mode is `mode`; rows of the others are not written, so a call
// whose experts differ in mode is one launch per mode. Stream-ordered, allocates nothing. Launches
// that share a workspace must share a stream.
void LaunchGemm(const GemmArgs& args, GemmMode mode, const GemmPlan& plan, cudaStream_t stream);

}  // namespace intermix::cuda
