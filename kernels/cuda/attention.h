// Launcher of paged attention; see Backend::PagedAttention. Stream-ordered; nothing is allocated
// and nothing is read back, so the launches depend on shapes alone. Tensors lie on the device.
//
// Scores and values are products of bfloat16 on mma.sync, or on wgmma with the same bits, in one
// order for prefill and decode: 64 positions at a time, a running maximum within each split of
// kAttentionSplit positions, splits merged in ascending order. A row's result depends on its query
// and its positions alone: not on the batch, the chunking, the block table or the scratch memory.
// It is within rounding of ReferenceBackend, which holds q and the weights of the softmax in
// float32; the last bits of 2^x and of mma.sync are the device's own.
//
// bfloat16 holds the codes of an int8 cache exactly. Their scales join as in
// Backend::PagedAttention: k's the finished product, v's the weight, which is rounded after that.
// The sum of the weights is of the weights without scales, rounded by themselves.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <span>

#include "kernels/core/tensor.h"
#include "kernels/cuda/model_limits.h"
#include "kernels/operands.h"

namespace intermix::cuda {

struct PagedAttentionArgs {
  Tensor q;  // [tokens, num_heads * head_dim] float32; head_dim a multiple of 8 (of 16 over an int8
             // cache), rows 16-byte aligned
  PagedRows rows;
  KvLayer cache;                        // k and v of the same strides, rows of whole 16-byte pieces
  std::span<const int32_t> kv_head_of;  // [num_heads], on the host
  float scale;                          // positive
  Tensor out;                           // [tokens, num_heads * head_dim] bfloat16
  // Where splits that are computed at once wait for each other: PagedAttentionScratch(args)
  // float32. With less, or none, few rows over long sequences are slower; no bit changes.
  Tensor scratch;
  int num_multiprocessors = 1;  // of the device: how many splits are worth computing at once
  bool wgmma = false;           // compute capability 9.0: large tiles of prompts run on it
};
void PagedAttention(const PagedAttentionArgs& args, cudaStream_t stream);

// What args.scratch should have: 0 where splits are not worth computing at once.
int64_t PagedAttentionScratch(const PagedAttentionArgs& args);

// The most that it says: what lets every split of `max_positions` be computed at once.
constexpr int64_t PagedAttentionScratch(int64_t tokens, int64_t num_heads, int64_t head_dim,
                                        int64_t max_positions) {
  const int64_t splits = (max_positions + kAttentionSplit - 1) / kAttentionSplit;
  return splits < 2 ? 0 : splits * tokens * num_heads * (head_dim + 2);
}

}  // namespace intermix::cuda
