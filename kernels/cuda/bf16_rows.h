// Launcher that rounds float32 rows to bfloat16, as cuBLASLt takes them. Stream-ordered; nothing is
// allocated. Tensors lie on the device; rows may be strided.
#pragma once

#include <cuda_runtime.h>

#include "kernels/core/tensor.h"

namespace intermix::cuda {

struct RoundToBf16Args {
  Tensor x;    // [tokens, K] float32
  Tensor out;  // [tokens, K] bfloat16
};
void RoundToBf16(const RoundToBf16Args& args, cudaStream_t stream);

}  // namespace intermix::cuda
