// Launchers of row quantisation; see kernels/backend.h for what each computes. Stream-ordered;
// nothing is allocated. Bit-identical to ReferenceBackend. Tensors lie on the device; rows may be
// strided. 16-byte accesses where every row allows them.
#pragma once

#include <cuda_runtime.h>

#include "kernels/core/tensor.h"
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

}  // namespace intermix::cuda
