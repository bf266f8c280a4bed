#include "runtime/checkpoint/hf_checkpoint.h"

#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "runtime/checkpoint/copy_tensor.h"
#include "runtime/checkpoint/model_tensors.h"
#include "runtime/checkpoint/quantization_config.h"
#include "runtime/checkpoint/quantize_tensor.h"

namespace intermix {

absl::StatusOr<std::unique_ptr<HfCheckpoint>> HfCheckpoint::Open(const std::string& directory,
                                                                 const ModelConfig& config,
                                                                 const QuantSpec& spec) {
  if (absl::Status s = spec.Validate(); !s.ok()) return s;
  if (absl::Status s = CheckGroupSize(config, spec); !s.ok()) return s;
  absl::StatusOr<TensorFiles> files = TensorFiles::Open(directory);
  if (!files.ok()) return files.status();
  absl::Status complete = ForEachModelTensor(config, [&](const ModelTensor& tensor) {
    const std::string name = absl::StrCat(SourceLayer(config, tensor.layer), ".weight");
    if (absl::Status s = files->CheckShape(name, tensor.shape); !s.ok()) return s;
    return ExactDTypeOf(*files, name).status();
  });
  if (!complete.ok()) return complete;
  return std::unique_ptr<HfCheckpoint>(new HfCheckpoint(*std::move(files), config, spec));
}

HfCheckpoint::HfCheckpoint(TensorFiles files, const ModelConfig& config, const QuantSpec& spec)
    : files_(std::move(files)), config_(config), spec_(spec) {}

std::string HfCheckpoint::description() const {
  const std::string formats = QuantizationConfig{.spec = spec_}.Description();
  return spec_.scheme == Scheme::kNone ? formats
                                       : absl::StrCat(formats, ", quantised while loading");
}

absl::StatusOr<QuantizedWeight> HfCheckpoint::LoadLinear(const std::string& name, int64_t n,
                                                         int64_t k, Slice rows) const {
  const std::string tensor = absl::StrCat(SourceLayer(config_, name), ".weight");
  absl::StatusOr<QuantizedWeight> weight = QuantizeRows(
      files_, {.tensor = tensor, .n = n, .k = k, .rows = rows}, SpecForLayer(spec_, name));
  if (!weight.ok()) return weight.status();
  if (absl::Status s = VerifyRows(*weight, name); !s.ok()) return s;
  return weight;
}

absl::StatusOr<OwnedTensor> HfCheckpoint::LoadTensor(const std::string& name, int64_t n, int64_t k,
                                                     Slice rows, Slice cols, DType dtype) const {
  return CopyTensor(files_,
                    {.name = name, .n = n, .k = k, .rows = rows, .cols = cols, .dtype = dtype});
}

absl::StatusOr<DType> HfCheckpoint::ExactDType(const std::string& name) const {
  return ExactDTypeOf(files_, name);
}

}  // namespace intermix
