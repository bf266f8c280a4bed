#include "runtime/tokenizer/chat_template.h"

#include <filesystem>
#include <fstream>
#include <iterator>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "runtime/tokenizer/utf8.h"

namespace intermix {
namespace {

bool Holds(const std::string& text, const char* part) {
  return text.find(part) != std::string::npos;
}

std::string ReadText(const std::string& path) {
  constexpr uint64_t kMaxBytes = 64 << 20;
  std::error_code error;
  if (!std::filesystem::is_regular_file(path, error)) return "";
  if (std::filesystem::file_size(path, error) > kMaxBytes) return "";
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

absl::Status CheckMessages(const std::vector<ChatMessage>& messages) {
  if (messages.empty() || messages.back().role != "user") {
    return absl::InvalidArgumentError("messages must end with one of the user");
  }
  const size_t first = messages[0].role == "system" ? 1 : 0;
  for (size_t i = 0; i < messages.size(); ++i) {
    if (!IsValidUtf8(messages[i].content)) {
      return absl::InvalidArgumentError(
          absl::StrCat("the content of messages[", i, "] is not valid UTF-8"));
    }
    const std::string expected = i < first ? "system" : (i - first) % 2 == 0 ? "user" : "assistant";
    if (messages[i].role != expected) {
      return absl::InvalidArgumentError(absl::StrCat(
          "messages[", i, "] has the role '", messages[i].role, "'; '", expected,
          "' is due: user and assistant take turns, after at most one system message"));
    }
  }
  return absl::OkStatus();
}

// Builds a prompt from texts and special tokens.
class Builder {
 public:
  explicit Builder(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {}

  void Text(const std::string& text) {
    const std::vector<int32_t> ids = tokenizer_.Encode(text);
    prompt_.tokens.insert(prompt_.tokens.end(), ids.begin(), ids.end());
  }
  void Special(const char* piece) {
    const int32_t id = Find(piece);
    if (id >= 0) prompt_.tokens.push_back(id);
  }
  void EndTurnsWith(const char* piece) {
    if (const int32_t id = Find(piece); id >= 0) prompt_.turn_end = id;
  }
  absl::StatusOr<ChatPrompt> Take() {
    if (missing_.empty()) return std::move(prompt_);
    return absl::InvalidArgumentError(absl::StrCat(
        "messages cannot be encoded: the tokenizer lacks the chat form's token ", missing_));
  }

 private:
  int32_t Find(const char* piece) {
    const int32_t id = tokenizer_.SpecialTokenId(piece);
    if (id < 0) missing_ = piece;
    return id;
  }

  const Tokenizer& tokenizer_;
  ChatPrompt prompt_;
  std::string missing_;
};

// github.com/mistralai/cookbook, concept-deep-dive/tokenization, V3 (Mixtral-8x22B-Instruct): the
// marks are control tokens. The system message stands before the last of the user.
void MixtralV3(const std::vector<ChatMessage>& messages, Builder& out) {
  const std::string system =
      messages.front().role == "system" ? messages.front().content + "\n\n" : "";
  out.Special("<s>");
  for (const ChatMessage& message : messages) {
    if (message.role == "user") {
      out.Special("[INST]");
      out.Text(&message == &messages.back() ? system + message.content : message.content);
      out.Special("[/INST]");
    } else if (message.role == "assistant") {
      out.Text(message.content);
      out.Special("</s>");
    }
  }
}

// huggingface.co/mistralai/Mixtral-8x7B-Instruct-v0.1 (V1): the marks are text, and every part is
// tokenised on its own. The system message stands before the first of the user.
void Mixtral(const std::vector<ChatMessage>& messages, Builder& out) {
  std::string system;
  out.Special("<s>");
  for (const ChatMessage& message : messages) {
    if (message.role == "system") {
      system = message.content + "\n\n";
    } else if (message.role == "user") {
      out.Text("[INST]");
      out.Text(system + message.content);
      out.Text("[/INST]");
      system.clear();
    } else {
      out.Text(message.content);
      out.Special("</s>");
    }
  }
}

// github.com/meta-llama/llama, generation.py: each exchange is one text between BOS and EOS.
void Llama2(const std::vector<ChatMessage>& messages, Builder& out) {
  std::string system;
  std::string user;
  for (const ChatMessage& message : messages) {
    const std::string content(absl::StripAsciiWhitespace(message.content));
    if (message.role == "system") {
      system = absl::StrCat("<<SYS>>\n", message.content, "\n<</SYS>>\n\n");
    } else if (message.role == "user") {
      user = absl::StrCat(
          "[INST] ", std::string(absl::StripAsciiWhitespace(system + message.content)), " [/INST]");
      system.clear();
    } else {
      out.Special("<s>");
      out.Text(absl::StrCat(user, " ", content, " "));
      out.Special("</s>");
    }
  }
  out.Special("<s>");
  out.Text(user);
}

// github.com/meta-llama/llama3, tokenizer.py.
void Llama3(const std::vector<ChatMessage>& messages, Builder& out) {
  const auto header = [&](const std::string& role) {
    out.Special("<|start_header_id|>");
    out.Text(role);
    out.Special("<|end_header_id|>");
  };
  out.Special("<|begin_of_text|>");
  for (const ChatMessage& message : messages) {
    header(message.role);
    out.Text("\n\n" + std::string(absl::StripAsciiWhitespace(message.content)));
    out.Special("<|eot_id|>");
  }
  header("assistant");
  out.Text("\n\n");
  out.EndTurnsWith("<|eot_id|>");
}

// github.com/openai/openai-python, chatml.md (0.27).
void ChatMl(const std::string& default_system, const std::vector<ChatMessage>& messages,
            Builder& out) {
  const auto add = [&](const ChatMessage& message) {
    out.Special("<|im_start|>");
    out.Text(absl::StrCat(message.role, "\n", message.content));
    out.Special("<|im_end|>");
    out.Text("\n");
  };
  if (!default_system.empty() && messages.front().role != "system") {
    add({.role = "system", .content = default_system});
  }
  for (const ChatMessage& message : messages) add(message);
  out.Special("<|im_start|>");
  out.Text("assistant\n");
  out.EndTurnsWith("<|im_end|>");
}

// The system's message that a ChatML template spells out, as SmolLM2's and Qwen's do; empty where
// it spells none, or one that is more than plain words.
std::string DefaultSystem(const std::string& text) {
  constexpr std::string_view kBegin = "<|im_start|>system";
  for (size_t at = text.find(kBegin); at != std::string::npos; at = text.find(kBegin, at + 1)) {
    size_t begin = at + kBegin.size();
    const size_t end = text.find("<|im_end|>", begin);
    if (end == std::string::npos) return "";
    // A line's end, as it is or as a template spells it: \n, with more backslashes inside JSON.
    const size_t letter = text.find_first_not_of('\\', begin);
    if (text[letter] != (letter == begin ? '\n' : 'n')) continue;
    begin = letter + 1;
    const std::string content = text.substr(begin, end - begin);
    if (content.find_first_of("'\"\\{}<") == std::string::npos) return content;
  }
  return "";
}

}  // namespace

std::optional<ChatTemplate> RecogniseChatTemplate(const std::string& text) {
  if (Holds(text, "<|start_header_id|>")) return ChatTemplate{.format = ChatFormat::kLlama3};
  if (Holds(text, "<|im_start|>")) {
    return ChatTemplate{.format = ChatFormat::kChatMl, .default_system = DefaultSystem(text)};
  }
  if (Holds(text, "<<SYS>>")) return ChatTemplate{.format = ChatFormat::kLlama2};
  if (Holds(text, "[INST]")) return ChatTemplate{.format = ChatFormat::kMixtral};
  return std::nullopt;
}

std::optional<ChatTemplate> FindChatTemplate(const std::string& directory) {
  std::string text = ReadText(directory + "/chat_template.jinja");
  if (text.empty()) {
    const auto config = nlohmann::json::parse(ReadText(directory + "/tokenizer_config.json"),
                                              nullptr, /*allow_exceptions=*/false);
    const auto found = config.is_object() ? config.find("chat_template") : config.end();
    // One template, or a list of named ones.
    if (config.is_object() && found != config.end()) text = found->dump();
  }
  return RecogniseChatTemplate(text);
}

absl::StatusOr<ChatPrompt> EncodeChat(const ChatTemplate& form, const Tokenizer& tokenizer,
                                      const std::vector<ChatMessage>& messages) {
  if (absl::Status s = CheckMessages(messages); !s.ok()) return s;
  Builder out(tokenizer);
  switch (form.format) {
    case ChatFormat::kMixtral:
      if (tokenizer.SpecialTokenId("[INST]") >= 0) {
        MixtralV3(messages, out);
      } else {
        Mixtral(messages, out);
      }
      break;
    case ChatFormat::kLlama2:
      Llama2(messages, out);
      break;
    case ChatFormat::kLlama3:
      Llama3(messages, out);
      break;
    case ChatFormat::kChatMl:
      ChatMl(form.default_system, messages, out);
      break;
  }
  return out.Take();
}

}  // namespace intermix
