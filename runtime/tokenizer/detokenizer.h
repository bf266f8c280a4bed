// Detokenizer: turns a stream of tokens into a stream of text deltas. Every delta is valid UTF-8; a
// character whose bytes come in several tokens is held back until it is whole.
//
// The deltas, joined, are ValidUtf8(Decode(context + tokens)) without what Decode(context)
// completes: a character that the context leaves incomplete comes with the stream. State is one
// token and at most three bytes. One stream each; not thread-safe.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "runtime/tokenizer/tokenizer.h"

namespace intermix {

// `bytes` with every invalid sequence replaced by U+FFFD.
std::string ValidUtf8(const std::string& bytes);

class Detokenizer {
 public:
  // `context` are the tokens before the stream (the prompt), whose text it continues: a space that
  // begins the stream's first token is part of the text only if something stands before it.
  // `tokenizer` outlives the detokenizer.
  explicit Detokenizer(const Tokenizer& tokenizer, std::span<const int32_t> context = {});

  // The text that `token` completes; often empty.
  std::string Add(int32_t token);

  // The end of the stream: U+FFFD for a character that never became whole, else nothing.
  std::string Flush();

 private:
  std::string Advance(int32_t token);

  const Tokenizer& tokenizer_;
  std::optional<int32_t> anchor_;  // the last token that stands for any text
  std::string pending_;            // the bytes of an incomplete character
};

}  // namespace intermix
