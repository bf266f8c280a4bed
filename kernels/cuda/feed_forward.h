// Launchers of the elementwise ops around the experts; see kernels/backend.h for what each
// computes. Stream-ordered; nothing is allocated. Bit-identical to ReferenceBackend. Tensors lie on
// the device; rows may be strided. 16-byte accesses where every row allows them.
#pragma once

#include <cuda_runtime.h>

#include "kernels/core/tensor.h"

namespace intermix::cuda {

struct SiluMulArgs {
  Tensor gate_up;  // [tokens, 2 * I] float32
  Tensor out;      // [tokens, I] bfloat16
};
void SiluMul(const SiluMulArgs& args, cudaStream_t stream);

struct CombineExpertsArgs {
  Tensor rows;      // [n, K] bfloat16
  Tensor row_of;    // [tokens, top_k] int32; empty: row t * top_k + k holds slot (t, k)
  Tensor weights;   // [tokens, top_k] float32
  Tensor residual;  // [tokens, K] float32, added to
};
void CombineExperts(const CombineExpertsArgs& args, cudaStream_t stream);

}  // namespace intermix::cuda
