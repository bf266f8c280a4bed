#include <memory>
#include <string>
#include <utility>

#include "runtime/checkpoint/checkpoint.h"
#include "runtime/checkpoint/hf_checkpoint.h"
#include "runtime/checkpoint/model_directory.h"
#include "runtime/checkpoint/quantized_checkpoint.h"

namespace intermix {

absl::StatusOr<std::unique_ptr<Checkpoint>> OpenCheckpoint(const std::string& directory,
                                                           const QuantSpec& spec) {
  const absl::StatusOr<ModelDirectory> model = ReadModelDirectory(directory);
  if (!model.ok()) return model.status();
  if (model->quantization) {
    return QuantizedCheckpoint::Open(directory, model->config, *model->quantization);
  }
  return HfCheckpoint::Open(directory, model->config, spec);
}

}  // namespace intermix
