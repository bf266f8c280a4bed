// Execution: what every layer needs to run an op: the device's backend and the step's scratch
// memory. Passed explicitly; owned by the rank.
#pragma once

#include <vector>

#include "kernels/backend.h"
#include "kernels/core/buffer.h"

namespace intermix {

struct Execution {
  Backend& backend;
  Workspace& workspace;

  Tensor Take(DType dtype, std::initializer_list<int64_t> shape) const {
    return workspace.Take(dtype, shape);
  }
  // Host values on the device: [values.size()], or [values.size() / cols, cols].
  template <typename T>
  Tensor Upload(const std::vector<T>& values) const {
    const Tensor tensor = Take(kDTypeOf<T>, {static_cast<int64_t>(values.size())});
    backend.CopyToDevice(values.data(), tensor);
    return tensor;
  }
  template <typename T>
  Tensor Upload(const std::vector<T>& values, int64_t cols) const {
    return Upload(values).Reshape({static_cast<int64_t>(values.size()) / cols, cols});
  }
  template <typename T>
  std::vector<T> Download(const Tensor& tensor) const {
    std::vector<T> values(static_cast<size_t>(tensor.num_elements()));
    CHECK(kDTypeOf<T> == tensor.dtype()) << tensor.ToString();
    backend.CopyToHost(tensor, values.data());
    return values;
  }
  // Uninitialised rows of the form that a linear layer wants.
  Activations TakeActivations(int64_t rows, int64_t cols, bool quantized) const {
    if (!quantized) return {.values = Take(DType::kF32, {rows, cols}), .scales = Tensor()};
    return {.values = Take(DType::kI8, {rows, cols}), .scales = Take(DType::kF32, {rows})};
  }
};

}  // namespace intermix
