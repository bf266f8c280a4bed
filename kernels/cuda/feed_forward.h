// Launcher of what joins gate and up; see Backend::GatedGemm. Stream-ordered; nothing is allocated.
// Bit-identical to ReferenceBackend. Tensors lie on the device; rows may be strided. 16-byte
// accesses where every row allows them.
#pragma once

#include <cuda_runtime.h>

#include "kernels/core/tensor.h"

namespace intermix::cuda {

struct SiluMulArgs {
  Tensor gate_up;  // [tokens, 2 * I] float32: gates then ups, or a gate and its up in turns
  Tensor out;      // [tokens, I] bfloat16
  bool in_turns = false;
};
void SiluMul(const SiluMulArgs& args, cudaStream_t stream);

}  // namespace intermix::cuda
