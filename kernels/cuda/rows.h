// Launchers of the ops that move whole rows; see kernels/backend.h for what each computes.
// Stream-ordered; nothing is allocated. Bit-identical to ReferenceBackend. Tensors lie on the
// device; rows may be strided. 16-byte accesses where every row allows them, else narrower ones.
#pragma once

#include <cuda_runtime.h>

#include "kernels/core/tensor.h"

namespace intermix::cuda {

struct EmbedRowsArgs {
  Tensor ids;    // [tokens] int32
  Tensor table;  // [vocabulary, K] float32 or bfloat16
  Tensor out;    // [tokens, K] float32
};
void EmbedRows(const EmbedRowsArgs& args, cudaStream_t stream);

struct GatherRowsArgs {
  Tensor src;    // [rows, K] any dtype, or [rows]
  Tensor index;  // [n] int32, -1 or a row of src
  Tensor dst;    // [n, K], or [n]
};
void GatherRows(const GatherRowsArgs& args, cudaStream_t stream);

struct MergeColumnsArgs {
  Tensor shards;  // [num_shards, tokens, K] any dtype
  Tensor out;     // [tokens, num_shards * K]
};
void MergeColumns(const MergeColumnsArgs& args, cudaStream_t stream);

// Fills a contiguous tensor with zero bytes.
void Zero(const Tensor& tensor, cudaStream_t stream);

}  // namespace intermix::cuda
