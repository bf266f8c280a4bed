// HfCheckpoint: a Hugging Face directory whose linear layers are quantised as they are loaded.
// Immutable; safe to use from several threads at once.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "kernels/quant/integer_scale.h"
#include "runtime/checkpoint/checkpoint.h"
#include "runtime/checkpoint/tensor_files.h"

namespace intermix {

class HfCheckpoint : public Checkpoint {
 public:
  // Maps the files of `directory` and checks that every tensor of the model is there in its shape
  // and that `spec` fits it; reads no weight.
  static absl::StatusOr<std::unique_ptr<HfCheckpoint>> Open(const std::string& directory,
                                                            const ModelConfig& config,
                                                            const QuantSpec& spec);

  const ModelConfig& config() const override { return config_; }
  std::string description() const override;
  absl::StatusOr<QuantizedWeight> LoadLinear(const std::string& name, int64_t n, int64_t k,
                                             Slice rows) const override;
  absl::StatusOr<OwnedTensor> LoadTensor(const std::string& name, int64_t n, int64_t k, Slice rows,
                                         Slice cols, DType dtype) const override;
  absl::StatusOr<DType> ExactDType(const std::string& name) const override;

  const TensorFiles& files() const { return files_; }

 private:
  HfCheckpoint(TensorFiles files, const ModelConfig& config, const QuantSpec& spec);

  TensorFiles files_;
  ModelConfig config_;
  QuantSpec spec_;
};

}  // namespace intermix
