// Launcher of the baseline's grouped GEMM: few bfloat16 rows by experts that are not quantised.
// Row counts stay on the device, so a recorded step serves any routing. Stream-ordered; nothing is
// allocated. Tensors lie on the device. A row's result depends on that row alone.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/core/tensor.h"

namespace intermix::cuda {

// Beyond so many rows an expert's weights are read too often.
inline constexpr int64_t kMaxBf16GroupedRows = 256;

struct Bf16GroupedArgs {
  Tensor x;                        // [rows, K] bfloat16, contiguous; K a multiple of 8
  const uint16_t* const* weights;  // [experts]: where each one's [N, K] bfloat16 is
  Tensor row_offsets;              // [experts + 1] int32; see Backend::GroupedGemm
  Tensor y;                        // [rows, N] float32 or bfloat16
};
void Bf16Grouped(const Bf16GroupedArgs& args, cudaStream_t stream);

}  // namespace intermix::cuda
