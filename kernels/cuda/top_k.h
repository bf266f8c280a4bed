// Launcher of TopK; see kernels/backend.h for what it computes. Stream-ordered; nothing is
// allocated. Bit-identical to ReferenceBackend. Tensors lie on the device; rows may be strided.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/core/tensor.h"

namespace intermix::cuda {

struct TopKArgs {
  Tensor x;           // [rows, n] float32
  Tensor values;      // [rows, k] float32
  Tensor columns;     // [rows, k] int32
  uint64_t* scratch;  // [TopKScratch(rows, n, k)]
};
void TopK(const TopKArgs& args, cudaStream_t stream);

// How many keys TopK keeps between its kernels; 0 where one kernel does it all.
int64_t TopKScratch(int64_t rows, int64_t n, int64_t k);

}  // namespace intermix::cuda
