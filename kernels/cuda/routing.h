// Launchers of the ops that decide where tokens go; see kernels/backend.h for what each computes.
// Stream-ordered; nothing is allocated. Bit-identical to ReferenceBackend. Tensors lie on the
// device; nothing is read back, so a step's launches depend on shapes alone.
#pragma once

#include <cuda_runtime.h>

#include "kernels/core/tensor.h"
#include "kernels/cuda/model_limits.h"
#include "kernels/operands.h"

namespace intermix::cuda {

inline constexpr int32_t kLeastSharedBytes = 99 * 1024;  // that a block of any device may have

struct RouteArgs {
  Tensor x;                                  // [tokens, hidden] float32
  Tensor gate;                               // [experts, hidden] float32
  Tensor experts;                            // [tokens, top_k] int32
  Tensor weights;                            // [tokens, top_k] float32
  int32_t shared_bytes = kLeastSharedBytes;  // that a block may have
};
void Route(const RouteArgs& args, cudaStream_t stream);

struct SortByExpertArgs {
  Tensor experts;        // [tokens, top_k] int32, contiguous
  int32_t first_expert;  // of the order.row_offsets.rows() - 1 experts that are ordered
  Activations tokens;    // [tokens, K]; empty where order.rows is
  ExpertOrder order;
};
void SortByExpert(const SortByExpertArgs& args, cudaStream_t stream);

struct AddRowCountsArgs {
  Tensor row_offsets;  // [experts + 1] int32
  Tensor totals;       // [experts] int32, added to
};
void AddRowCounts(const AddRowCountsArgs& args, cudaStream_t stream);

}  // namespace intermix::cuda
