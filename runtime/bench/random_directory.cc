#include "runtime/bench/random_directory.h"

#include <cmath>
#include <fstream>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "runtime/bench/random_weight.h"
#include "runtime/checkpoint/model_tensors.h"
#include "runtime/checkpoint/safetensors_writer.h"

namespace intermix {
namespace {

absl::Status WriteConfig(const ModelConfig& config, const std::string& path) {
  nlohmann::json json = {{"architectures", {config.architecture}},
                         {"model_type", config.is_moe() ? "mixtral" : "llama"},
                         {"hidden_act", "silu"},
                         {"vocab_size", config.vocab_size},
                         {"hidden_size", config.hidden_size},
                         {"intermediate_size", config.intermediate_size},
                         {"num_hidden_layers", config.num_hidden_layers},
                         {"num_attention_heads", config.num_attention_heads},
                         {"num_key_value_heads", config.num_key_value_heads},
                         {"head_dim", config.head_dim},
                         {"max_position_embeddings", config.max_position_embeddings},
                         {"rms_norm_eps", config.rms_norm_eps},
                         {"rope_theta", config.rope_theta},
                         {"tie_word_embeddings", config.tie_word_embeddings}};
  if (config.is_moe()) {
    json["num_local_experts"] = config.num_local_experts;
    json["num_experts_per_tok"] = config.num_experts_per_tok;
  }
  std::ofstream file(path);
  file << json.dump(2) << '\n';
  file.close();
  if (file) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat("cannot write ", path));
}

}  // namespace

absl::Status WriteRandomDirectory(const ModelConfig& config, const std::string& directory) {
  if (absl::Status s = WriteConfig(config, directory + "/config.json"); !s.ok()) return s;
  std::vector<ModelTensor> tensors;
  const absl::Status listed = ForEachModelTensor(config, [&](const ModelTensor& tensor) {
    if (SourceLayer(config, tensor.layer) == tensor.layer) tensors.push_back(tensor);
    return absl::OkStatus();
  });
  if (!listed.ok()) return listed;
  std::vector<SafetensorsSpec> plan;
  for (const ModelTensor& tensor : tensors) {
    plan.push_back({.name = absl::StrCat(tensor.layer, ".weight"),
                    .dtype = DType::kBF16,
                    .shape = tensor.shape});
  }
  absl::StatusOr<std::unique_ptr<SafetensorsWriter>> writer =
      SafetensorsWriter::Create(directory + "/model.safetensors", std::move(plan));
  if (!writer.ok()) return writer.status();
  std::map<std::vector<int64_t>, OwnedTensor> made;
  for (const ModelTensor& tensor : tensors) {
    OwnedTensor& values = made[tensor.shape];
    if (values.view.empty()) {
      const int64_t rows = tensor.shape.size() == 2 ? tensor.shape[0] : 1;
      const int64_t cols = tensor.shape.back();
      values = RandomValues(DType::kBF16, rows, cols, 1.0 / std::sqrt(static_cast<double>(cols)),
                            made.size());
    }
    const std::string name = absl::StrCat(tensor.layer, ".weight");
    if (absl::Status s = (*writer)->Write(name, values.view); !s.ok()) return s;
  }
  return (*writer)->Finish();
}

}  // namespace intermix
