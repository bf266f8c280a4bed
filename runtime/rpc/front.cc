#include "runtime/rpc/front.h"

#include <algorithm>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "runtime/tokenizer/utf8.h"

namespace intermix {

FrontModel FrontModel::Make(const ModelConfig& config, const Tokenizer& tokenizer,
                            std::optional<ChatTemplate> chat_template) {
  FrontModel model;
  model.chat_template = std::move(chat_template);
  model.tokenizer = &tokenizer;
  if (tokenizer.adds_bos_token()) {
    model.bos_token_id = config.bos_token_id >= 0 ? config.bos_token_id : tokenizer.bos_token_id();
  }
  // Text that cannot fit is refused before it is tokenised, which takes a while.
  constexpr int64_t kMaxBytesPerToken = 64;
  model.max_prompt_bytes =
      std::min(model.max_prompt_bytes, kMaxBytesPerToken * config.max_position_embeddings);
  model.eos_token_ids = config.eos_token_ids;
  if (model.eos_token_ids.empty() && tokenizer.eos_token_id() >= 0) {
    model.eos_token_ids.push_back(tokenizer.eos_token_id());
  }
  return model;
}

absl::StatusOr<std::vector<int32_t>> EncodePrompt(const FrontModel& model, std::string_view text,
                                                  bool add_special_tokens) {
  if (std::ssize(text) > model.max_prompt_bytes) {
    return absl::InvalidArgumentError(absl::StrCat(
        "text has ", text.size(), " bytes; a prompt may have at most ", model.max_prompt_bytes));
  }
  if (!IsValidUtf8(text)) return absl::InvalidArgumentError("text is not valid UTF-8");
  std::vector<int32_t> ids = model.tokenizer->Encode(text);
  if (add_special_tokens && model.bos_token_id >= 0) ids.insert(ids.begin(), model.bos_token_id);
  if (ids.empty()) {
    return absl::InvalidArgumentError("text is empty; a prompt needs at least one token");
  }
  return ids;
}

absl::StatusOr<ChatPrompt> EncodeChatPrompt(const FrontModel& model,
                                            const std::vector<ChatMessage>& messages) {
  if (!model.chat_template.has_value()) {
    return absl::InvalidArgumentError(
        "chat is set, but the model has no chat template that is known; send text or token_ids");
  }
  int64_t bytes = 0;
  for (const ChatMessage& message : messages) {
    bytes += std::ssize(message.role) + std::ssize(message.content);
  }
  if (bytes > model.max_prompt_bytes) {
    return absl::InvalidArgumentError(absl::StrCat(
        "chat has ", bytes, " bytes; a prompt may have at most ", model.max_prompt_bytes));
  }
  return EncodeChat(*model.chat_template, *model.tokenizer, messages);
}

void AddEosTokens(const FrontModel& model, SamplingParams& sampling) {
  if (sampling.ignore_eos) return;
  sampling.stop_token_ids.insert(sampling.stop_token_ids.end(), model.eos_token_ids.begin(),
                                 model.eos_token_ids.end());
}

uint64_t DrawSeed() {
  std::random_device device;
  return (static_cast<uint64_t>(device()) << 32) | device();
}

}  // namespace intermix
