// Launchers of row quantisation and of the norm that feeds it; see kernels/backend.h for what each
// computes. Stream-ordered; nothing is allocated. Bit-identical to ReferenceBackend. Tensors lie on
// the device; rows may be strided. 16-byte accesses where every row allows them.
#pragma once

#include <cuda_runtime.h>

#include "kernels/core/tensor.h"
#include "kernels/cuda/model_limits.h"
#include "kernels/operands.h"

namespace intermix::cuda {

struct RowAbsMaxArgs {
  Tensor x;     // [tokens, K] bfloat16 or float32
  Tensor amax;  // [tokens] float32
};
void RowAbsMax(const RowAbsMaxArgs& args, cudaStream_t stream);

struct QuantizeRowsArgs {
  Tensor x;         // [tokens, K] bfloat16 or float32
  Tensor amax;      // [tokens] float32; empty: of x itself. Not read where out.values is float32
  Activations out;  // [tokens, K]
};
void QuantizeRows(const QuantizeRowsArgs& args, cudaStream_t stream);

struct RmsNormArgs {
  Tensor x;       // [tokens, K] float32
  Tensor weight;  // [K] float32
  float eps;
  Tensor normed;    // [tokens, K] float32
  Activations out;  // [tokens, K]; out.values may be `normed` itself where it is float32
};
// K is at most kMaxNormWidth.
void RmsNorm(const RmsNormArgs& args, cudaStream_t stream);

}  // namespace intermix::cuda
