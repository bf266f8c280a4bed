#include "runtime/checkpoint/model_directory.h"

#include <filesystem>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "runtime/model/json_fields.h"
#include "runtime/model/json_file.h"

namespace intermix {
namespace {

// What generation stops at; Hugging Face lets generation_config.json override config.json.
absl::Status ReadGenerationConfig(const std::string& directory, ModelConfig& config) {
  const std::string path = absl::StrCat(directory, "/generation_config.json");
  std::error_code error;
  if (!std::filesystem::exists(path, error)) return absl::OkStatus();
  const absl::StatusOr<nlohmann::json> json = ReadJsonFile(path);
  if (!json.ok()) return json.status();
  JsonFields fields(*json, path);
  const std::vector<int64_t> ids = fields.Integers("eos_token_id", 0, config.vocab_size - 1);
  if (!fields.status().ok()) return fields.status();
  if (!ids.empty()) config.eos_token_ids.assign(ids.begin(), ids.end());
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ModelDirectory> ReadModelDirectory(const std::string& directory) {
  std::error_code error;
  if (!std::filesystem::is_directory(directory, error)) {
    return absl::NotFoundError(absl::StrCat("there is no model directory ", directory));
  }
  absl::StatusOr<nlohmann::json> json = ReadJsonFile(absl::StrCat(directory, "/config.json"));
  if (!json.ok()) return json.status();
  absl::StatusOr<ModelConfig> config = ModelConfig::FromJson(*json);
  if (!config.ok()) return config.status();
  ModelDirectory result{.config_json = *std::move(json), .config = *std::move(config)};
  if (absl::Status s = ReadGenerationConfig(directory, result.config); !s.ok()) return s;
  const JsonFields fields(result.config_json, "config.json");
  if (const nlohmann::json* quantization = fields.Find("quantization_config")) {
    absl::StatusOr<QuantizationConfig> read = QuantizationConfig::FromJson(*quantization);
    if (!read.ok()) return read.status();
    result.quantization = *std::move(read);
  }
  return result;
}

}  // namespace intermix
