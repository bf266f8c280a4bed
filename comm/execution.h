// Execution: what every layer needs to run an op: the device's backend and the step's scratch
// memory. Passed explicitly; owned by the rank.
#pragma once

#include "kernels/backend.h"
#include "kernels/core/buffer.h"

namespace intermix {

struct Execution {
  Backend& backend;
  Workspace& workspace;

  Tensor Take(DType dtype, std::initializer_list<int64_t> shape) const {
    return workspace.Take(dtype, shape);
  }
  // Uninitialised rows of the form that a linear layer wants.
  Activations TakeActivations(int64_t rows, int64_t cols, bool quantized) const {
    if (!quantized) return {.values = Take(DType::kF32, {rows, cols}), .scales = Tensor()};
    return {.values = Take(DType::kI8, {rows, cols}), .scales = Take(DType::kF32, {rows})};
  }
};

}  // namespace intermix
