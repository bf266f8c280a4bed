// CublasLtGemm: products through NVIDIA's cuBLASLt. bfloat16 for weights that are not quantised,
// the baseline that quantised layers are compared with; int8 as a limit to measure kernels by.
// Which algorithm the library picks may depend on the shape, so a bfloat16 row's result may depend
// on the batch (numerics.md, "Invariance").
//
// The library is opened at run time. Engine thread only.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "kernels/core/tensor.h"
#include "kernels/cuda/cuda_context.h"

namespace intermix::cuda {

class CublasLtGemm {
 public:
  //   UNAVAILABLE: no cuBLASLt here; says what to do. `context` outlives the result.
  static absl::StatusOr<std::unique_ptr<CublasLtGemm>> Open(const CudaContext& context);
  ~CublasLtGemm();

  // y = x . w^T with float32 sums, or int32 ones of int8. All on the device.
  //   x  [tokens, K] bfloat16, contiguous; or int8, then K and N are multiples of 4
  //   w  [N, K] of the same type, contiguous
  //   y  [tokens, N] float32 or bfloat16; int32 of int8; rows may be strided
  void Multiply(const Tensor& x, const Tensor& w, const Tensor& y);

 private:
  class Impl;
  explicit CublasLtGemm(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace intermix::cuda
