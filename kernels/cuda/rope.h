// Launcher of the rotary embedding and the cache write; see Backend::RopeAndStoreKv.
// Stream-ordered; nothing is allocated. Bit-identical to ReferenceBackend. Tensors lie on the
// device; rows may be strided.
#pragma once

#include <cuda_runtime.h>

#include "kernels/core/tensor.h"
#include "kernels/operands.h"

namespace intermix::cuda {

struct RopeArgs {
  Tensor q;        // [tokens, num_heads * head_dim] float32, rotated in place
  Tensor k;        // [tokens, num_kv_heads * head_dim] float32, rotated in place
  Tensor v;        // [tokens, num_kv_heads * head_dim] float32
  Tensor rope;     // [max_positions, head_dim] float32
  PagedRows rows;  // positions and slots are read
  KvLayer cache;
};
void RopeAndStoreKv(const RopeArgs& args, cudaStream_t stream);

}  // namespace intermix::cuda
