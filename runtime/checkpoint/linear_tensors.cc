#include "runtime/checkpoint/linear_tensors.h"

#include "kernels/core/check.h"

namespace intermix {

std::vector<LinearTensor> LinearTensors(const std::string& layer, const WeightFormat& format,
                                        const std::vector<int64_t>& shape) {
  CHECK_EQ(shape.size(), 2u);
  const int64_t n = shape[0];
  const int64_t k = shape[1];
  const std::string codes = layer + ".codes";
  if (format.scheme == Scheme::kNone) {
    return {{codes, {n, k}, std::nullopt, &QuantizedWeight::codes}};
  }
  const bool packed = format.bits == 4;
  const bool integer = format.scheme == Scheme::kInteger;
  std::vector<LinearTensor> tensors = {
      {codes, {n, packed ? k / 2 : k}, packed ? DType::kU8 : DType::kI8, &QuantizedWeight::codes},
      {layer + ".group_scales",
       {n, k / format.group_size},
       integer ? DType::kI16 : DType::kF32,
       &QuantizedWeight::group_scales}};
  if (integer) {
    tensors.push_back(
        {layer + ".channel_scales", {n}, DType::kF32, &QuantizedWeight::channel_scales});
  }
  return tensors;
}

}  // namespace intermix
