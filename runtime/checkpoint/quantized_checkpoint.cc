#include "runtime/checkpoint/quantized_checkpoint.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "runtime/checkpoint/copy_tensor.h"
#include "runtime/checkpoint/linear_tensors.h"
#include "runtime/checkpoint/model_tensors.h"
#include "runtime/checkpoint/quantize_tensor.h"
#include "runtime/checkpoint/weight_rows.h"

namespace intermix {
namespace {

// Float scales must be finite: a NaN among them would spread to every request.
absl::Status CheckFinite(const Tensor& scales, const std::string& name) {
  if (scales.empty() || scales.dtype() != DType::kF32) return absl::OkStatus();
  const float* data = scales.data<float>();
  const int64_t count = scales.num_elements();
  if (std::all_of(data, data + count, [](float scale) { return std::isfinite(scale); })) {
    return absl::OkStatus();
  }
  return absl::FailedPreconditionError(
      absl::StrCat("tensor ", name, " holds a scale that is not finite; quantise the model again"));
}

}  // namespace

absl::StatusOr<std::unique_ptr<QuantizedCheckpoint>> QuantizedCheckpoint::Open(
    const std::string& directory, const ModelConfig& config,
    const QuantizationConfig& quantization) {
  if (absl::Status s = CheckGroupSize(config, quantization.spec); !s.ok()) return s;
  absl::StatusOr<TensorFiles> files = TensorFiles::Open(directory);
  if (!files.ok()) return files.status();
  absl::Status complete = ForEachModelTensor(config, [&](const ModelTensor& tensor) {
    if (!tensor.linear) return files->CheckShape(tensor.layer + ".weight", tensor.shape);
    const absl::StatusOr<WeightFormat> format =
        quantization.FormatOf(tensor.layer, tensor.shape[1]);
    if (!format.ok()) return format.status();
    for (const LinearTensor& part : LinearTensors(tensor.layer, *format, tensor.shape)) {
      if (absl::Status s = files->CheckShape(part.name, part.shape); !s.ok()) return s;
    }
    return absl::OkStatus();
  });
  if (!complete.ok()) return complete;
  return std::unique_ptr<QuantizedCheckpoint>(
      new QuantizedCheckpoint(*std::move(files), config, quantization));
}

QuantizedCheckpoint::QuantizedCheckpoint(TensorFiles files, const ModelConfig& config,
                                         const QuantizationConfig& quantization)
    : files_(std::move(files)), config_(config), quantization_(quantization) {}

absl::StatusOr<QuantizedWeight> QuantizedCheckpoint::LoadLinear(const std::string& name, int64_t n,
                                                                int64_t k, Slice rows) const {
  const absl::StatusOr<WeightFormat> format = quantization_.FormatOf(name, k);
  if (!format.ok()) return format.status();
  if (rows.begin < 0 || rows.begin > rows.end) {
    return absl::InvalidArgumentError(
        absl::StrCat("layer ", name, " has no rows ", rows.begin, "..", rows.end));
  }
  const Slice real = {.begin = std::min(rows.begin, n), .end = std::min(rows.end, n)};
  QuantizedWeight weight{.format = *format, .n = real.size(), .k = k};
  std::vector<std::shared_ptr<const void>> owners;
  for (const LinearTensor& part : LinearTensors(name, *format, {n, k})) {
    absl::StatusOr<TensorRows> read =
        part.dtype ? files_.Rows(part.name, part.shape, real, {*part.dtype})
                   : files_.Rows(part.name, part.shape, real, {DType::kBF16, DType::kF32});
    if (!read.ok()) return read.status();
    if (absl::Status s = CheckFinite(part.dtype ? read->view : Tensor(), part.name); !s.ok()) {
      return s;
    }
    weight.*(part.member) = read->view;
    owners.push_back(std::move(read->owner));
    owners.push_back(files_.ReleasedAtLast(part.name));
  }
  weight.owner = std::make_shared<const std::vector<std::shared_ptr<const void>>>(owners);
  if (absl::Status s = VerifyRows(weight, name); !s.ok()) return s;
  if (real == rows) return weight;
  return StackRows({weight}, rows.size());
}

absl::StatusOr<OwnedTensor> QuantizedCheckpoint::LoadTensor(const std::string& name, int64_t n,
                                                            int64_t k, Slice rows, Slice cols,
                                                            DType dtype) const {
  return CopyTensor(files_,
                    {.name = name, .n = n, .k = k, .rows = rows, .cols = cols, .dtype = dtype});
}

absl::StatusOr<DType> QuantizedCheckpoint::ExactDType(const std::string& name) const {
  return ExactDTypeOf(files_, name);
}

}  // namespace intermix
