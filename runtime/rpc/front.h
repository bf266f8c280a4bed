// What stands between text and the engine: turning a prompt into tokens. No gRPC in here; the
// server and `intermix generate` share it. Pure functions over immutable values; any thread.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/engine/request.h"
#include "runtime/model/model_config.h"
#include "runtime/tokenizer/chat_template.h"
#include "runtime/tokenizer/tokenizer.h"

namespace intermix {

// What the front knows of the loaded model. `tokenizer` outlives it.
struct FrontModel {
  const Tokenizer* tokenizer = nullptr;
  int32_t bos_token_id = -1;                  // put before texts; -1: none
  std::vector<int32_t> eos_token_ids;         // may be empty
  std::optional<ChatTemplate> chat_template;  // nothing: no chats
  int64_t max_prompt_bytes = 4 << 20;         // longer text is refused before it is tokenised

  // Ids come from config.json, or from the tokenizer where it names none.
  static FrontModel Make(const ModelConfig& config, const Tokenizer& tokenizer,
                         std::optional<ChatTemplate> chat_template = std::nullopt);
};

// Tokens of `text`, after BOS where `add_special_tokens` is set and the model has one.
//   INVALID_ARGUMENT, naming `text`: not UTF-8, too long, or no token at all.
absl::StatusOr<std::vector<int32_t>> EncodePrompt(const FrontModel& model, std::string_view text,
                                                  bool add_special_tokens);

// As EncodeChat; INVALID_ARGUMENT naming `chat` also where the model has no template that is known.
absl::StatusOr<ChatPrompt> EncodeChatPrompt(const FrontModel& model,
                                            const std::vector<ChatMessage>& messages);

// Makes the model's EOS ids stop ids, unless ignore_eos is set.
void AddEosTokens(const FrontModel& model, SamplingParams& sampling);

// A seed for a request that brings none.
uint64_t DrawSeed();

}  // namespace intermix
