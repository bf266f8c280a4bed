#include "runtime/tokenizer/detokenizer.h"

#include <array>
#include <string_view>
#include <utility>

#include "runtime/tokenizer/utf8.h"

namespace intermix {
namespace {

// Moves what is decided of `bytes` to the result; an incomplete character stays in `bytes`.
std::string TakeValid(std::string& bytes) {
  std::string text;
  std::string_view rest = bytes;
  while (!rest.empty()) {
    const Utf8Prefix prefix = FirstUtf8(rest);
    if (prefix.kind == Utf8Prefix::Kind::kIncomplete) break;
    if (prefix.kind == Utf8Prefix::Kind::kCharacter) {
      text += rest.substr(0, prefix.length);
    } else {
      text += kReplacementCharacter;
    }
    rest.remove_prefix(prefix.length);
  }
  bytes = std::string(rest);
  return text;
}

}  // namespace

std::string ValidUtf8(const std::string& bytes) {
  std::string rest = bytes;
  std::string text = TakeValid(rest);
  if (!rest.empty()) text += kReplacementCharacter;
  return text;
}

Detokenizer::Detokenizer(const Tokenizer& tokenizer, std::span<const int32_t> context)
    : tokenizer_(tokenizer) {
  for (int32_t token : context) {
    pending_ += Advance(token);
    TakeValid(pending_);
  }
}

std::string Detokenizer::Add(int32_t token) {
  pending_ += Advance(token);
  return TakeValid(pending_);
}

std::string Detokenizer::Flush() {
  return std::exchange(pending_, std::string()).empty() ? std::string()
                                                        : std::string(kReplacementCharacter);
}

// The bytes that `token` adds. How a token decodes depends on whether any text stands before it
// (the leading space), so it is decoded after the last token that stood for some.
std::string Detokenizer::Advance(int32_t token) {
  std::string bytes;
  if (anchor_) {
    const std::array<int32_t, 2> pair = {*anchor_, token};
    bytes = tokenizer_.Decode(pair).substr(tokenizer_.Decode({&*anchor_, 1}).size());
    if (bytes.empty()) return bytes;
  } else {
    bytes = tokenizer_.Decode({&token, 1});
    // A lone space opens the text without showing; a control token does neither.
    const std::array<int32_t, 2> twice = {token, token};
    if (tokenizer_.Decode(twice).empty()) return bytes;
  }
  anchor_ = token;
  return bytes;
}

}  // namespace intermix
