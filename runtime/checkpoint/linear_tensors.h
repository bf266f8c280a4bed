// Which tensors of a quantised file make up one linear layer; reader and writer agree here.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "kernels/quant/weight.h"

namespace intermix {

struct LinearTensor {
  std::string name;                 // "model.layers.0.self_attn.q_proj.codes"
  std::vector<int64_t> shape;       // rows first
  std::optional<DType> dtype;       // none: the original's, F32 or BF16 (scheme none)
  Tensor QuantizedWeight::*member;  // where it stands in a QuantizedWeight
};

// Codes, then group scales, then channel scales, as far as `format` has them. `shape` is [n, k].
std::vector<LinearTensor> LinearTensors(const std::string& layer, const WeightFormat& format,
                                        const std::vector<int64_t>& shape);

}  // namespace intermix
