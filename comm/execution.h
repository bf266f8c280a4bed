// Execution: what every layer needs to run an op: the device's backend and the step's scratch
// memory. Passed explicitly; owned by the rank.
#pragma once

#include <array>
#include <span>
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
  // Host values on the device: [values.size()].
  template <typename T>
  Tensor Upload(const std::vector<T>& values) const {
    const Tensor tensor = Take(kDTypeOf<T>, {static_cast<int64_t>(values.size())});
    backend.CopyToDevice(values.data(), tensor);
    return tensor;
  }
  // Several at once, by one copy.
  template <size_t kCount>
  std::array<Tensor, kCount> Upload(
      const std::array<std::span<const int32_t>, kCount>& arrays) const {
    constexpr size_t kAlignment = 16;  // elements: 64 bytes
    std::vector<int32_t> all;
    std::array<int64_t, kCount> begin;
    for (size_t i = 0; i < kCount; ++i) {
      begin[i] = static_cast<int64_t>(all.size());
      all.insert(all.end(), arrays[i].begin(), arrays[i].end());
      all.resize((all.size() + kAlignment - 1) / kAlignment * kAlignment);
    }
    const Tensor uploaded = Upload(all);
    std::array<Tensor, kCount> tensors;
    for (size_t i = 0; i < kCount; ++i) {
      tensors[i] = uploaded.Rows(begin[i], begin[i] + static_cast<int64_t>(arrays[i].size()));
    }
    return tensors;
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
