// QuantizedCheckpoint: a directory that QuantizeCheckpoint wrote. Per linear layer it holds
//   <layer>.codes           W4: [n, k/2] U8. W8: [n, k] I8. scheme none: [n, k] F32 or BF16
//   <layer>.group_scales    [n, k/g] I16 (integer) or F32 (float)
//   <layer>.channel_scales  [n] F32 (integer)
// and every other tensor as the original had it. Nothing in it is trusted: shapes, dtypes, scales
// and the overflow certificate are checked when they are read.
// Immutable; safe to use from several threads at once.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "runtime/checkpoint/checkpoint.h"
#include "runtime/checkpoint/quantization_config.h"
#include "runtime/checkpoint/tensor_files.h"

namespace intermix {

class QuantizedCheckpoint : public Checkpoint {
 public:
  // Maps the files of `directory` and checks that every tensor of the model is there; reads none.
  static absl::StatusOr<std::unique_ptr<QuantizedCheckpoint>> Open(
      const std::string& directory, const ModelConfig& config,
      const QuantizationConfig& quantization);

  const ModelConfig& config() const override { return config_; }
  std::string description() const override { return quantization_.Description(); }
  absl::StatusOr<QuantizedWeight> LoadLinear(const std::string& name, int64_t n, int64_t k,
                                             Slice rows) const override;
  absl::StatusOr<OwnedTensor> LoadTensor(const std::string& name, int64_t n, int64_t k, Slice rows,
                                         Slice cols, DType dtype) const override;
  absl::StatusOr<DType> ExactDType(const std::string& name) const override;

 private:
  QuantizedCheckpoint(TensorFiles files, const ModelConfig& config,
                      const QuantizationConfig& quantization);

  TensorFiles files_;
  ModelConfig config_;
  QuantizationConfig quantization_;
};

}  // namespace intermix
