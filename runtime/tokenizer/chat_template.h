// Chat templates: how a conversation becomes a prompt. A checkpoint's template is a program
// (Jinja); it is never run. Its text is only looked at to tell which of the known forms it is, and
// those are written here.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/tokenizer/tokenizer.h"

namespace intermix {

struct ChatMessage {
  std::string role;  // "system" (only the first), "user" or "assistant"
  std::string content;
};

enum class ChatFormat : uint8_t { kMixtral, kLlama2, kLlama3, kChatMl };

// What is taken from a template.
struct ChatTemplate {
  ChatFormat format = ChatFormat::kMixtral;
  // ChatML: the system's message of a conversation that has none of its own; empty: none.
  std::string default_system = {};

  bool operator==(const ChatTemplate&) const = default;
};

// Which form a template's text is; nothing where it is none of them.
std::optional<ChatTemplate> RecogniseChatTemplate(const std::string& text);

// Of the template in `directory` (chat_template.jinja, or tokenizer_config.json's chat_template);
// nothing where there is none, or none that is known.
std::optional<ChatTemplate> FindChatTemplate(const std::string& directory);

struct ChatPrompt {
  std::vector<int32_t> tokens;      // up to where the assistant's next message begins
  std::optional<int32_t> turn_end;  // the token that ends that message, where it is not EOS
};

// Special tokens come from the form alone: those in a message's content stay text.
//   INVALID_ARGUMENT, naming `messages`: a role that is unknown or out of turn, no user message at
//   the end, content that is not UTF-8, or a tokenizer that lacks the form's special tokens.
absl::StatusOr<ChatPrompt> EncodeChat(const ChatTemplate& form, const Tokenizer& tokenizer,
                                      const std::vector<ChatMessage>& messages);

}  // namespace intermix
