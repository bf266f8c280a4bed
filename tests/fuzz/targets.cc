#include "tests/fuzz/targets.h"

#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "kernels/core/check.h"
#include "nlohmann/json.hpp"
#include "runtime/checkpoint/model_tensors.h"
#include "runtime/checkpoint/quantization_config.h"
#include "runtime/checkpoint/safetensors.h"
#include "runtime/model/json_file.h"
#include "runtime/model/model_config.h"
#include "runtime/tokenizer/bpe_encoder.h"
#include "runtime/tokenizer/read_tokenizer.h"
#include "runtime/tokenizer/sentencepiece_model.h"

namespace intermix::fuzz {
namespace {

std::string_view Text(std::span<const uint8_t> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

}  // namespace

bool Safetensors(std::span<const uint8_t> bytes) {
  const absl::StatusOr<SafetensorsEntries> entries = ParseSafetensors(bytes, "input");
  if (!entries.ok()) {
    CHECK(!entries.status().message().empty());
    return false;
  }
  size_t total = 0;
  uint64_t sum = 0;
  for (const auto& [name, entry] : *entries) {
    CHECK(entry.begin <= entry.end && entry.end <= bytes.size()) << name;
    total += entry.end - entry.begin;
    for (size_t i = entry.begin; i < entry.end; ++i) sum += bytes[i];
  }
  CHECK_LE(total, bytes.size());
  CHECK_LE(sum, 255 * uint64_t{total});
  return true;
}

bool Config(std::span<const uint8_t> bytes) {
  const absl::StatusOr<nlohmann::json> json = ParseJson(Text(bytes), "input");
  if (!json.ok()) return false;
  const absl::StatusOr<ModelConfig> config = ModelConfig::FromJson(*json);
  if (!config.ok()) return false;
  CHECK(config->head_dim > 0 && config->head_dim % 2 == 0);
  CHECK_EQ(config->num_attention_heads % config->num_key_value_heads, 0);
  int64_t tensors = 0;
  const absl::Status visited = ForEachModelTensor(*config, [&](const ModelTensor& tensor) {
    for (int64_t extent : tensor.shape) CHECK_GT(extent, 0);
    // A hostile config may name millions of tensors; opening a checkpoint ends at the first that
    // is missing.
    return ++tensors < 1000 ? absl::OkStatus() : absl::OutOfRangeError("enough");
  });
  CHECK(visited.ok() || tensors == 1000);
  const auto quantization = json->find("quantization_config");
  if (quantization == json->end()) return true;
  const absl::StatusOr<QuantizationConfig> read = QuantizationConfig::FromJson(*quantization);
  if (!read.ok()) return false;
  const absl::StatusOr<WeightFormat> head = read->FormatOf(kLmHead, config->hidden_size);
  return head.ok() && !read->Description().empty() && !read->ToJson().empty();
}

bool Tokenizer(std::span<const uint8_t> bytes) {
  absl::StatusOr<SentencePieceModel> model = ReadSentencePieceModel(Text(bytes), "input");
  if (!model.ok()) return false;
  const absl::StatusOr<BpeEncoder> encoder = BpeEncoder::Make(*std::move(model), "input");
  if (!encoder.ok()) return false;
  const auto num_pieces = static_cast<int32_t>(encoder->model().pieces.size());
  for (const int32_t id : encoder->Encode("  And it \xE2\x82\xAC came\n\xFF\xE2\x82 to pass ")) {
    CHECK(0 <= id && id < num_pieces) << id;
  }
  return true;
}

bool TokenizerJson(std::span<const uint8_t> bytes) {
  const absl::StatusOr<std::unique_ptr<intermix::Tokenizer>> tokenizer =
      ReadByteLevelTokenizer(Text(bytes), "input");
  if (!tokenizer.ok()) {
    CHECK(!tokenizer.status().message().empty());
    return false;
  }
  const std::vector<int32_t> ids =
      (*tokenizer)->Encode("  And it \xE2\x82\xAC came\n12345 <|im_end|>\xFF\xE2\x82 to pass ");
  for (const int32_t id : ids) CHECK(0 <= id && id < (*tokenizer)->vocab_size()) << id;
  (void)(*tokenizer)->Decode(ids);
  return true;
}

}  // namespace intermix::fuzz
