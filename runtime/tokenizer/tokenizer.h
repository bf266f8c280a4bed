// Tokenizer: text to token ids and back. Immutable; safe to use from several threads at once.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace intermix {

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  virtual int32_t vocab_size() const = 0;
  virtual int32_t bos_token_id() const = 0;  // -1: none
  virtual int32_t eos_token_id() const = 0;  // -1: none
  // The id of a special token by its spelling, "<|im_end|>"; -1: there is none.
  virtual int32_t SpecialTokenId(std::string_view) const { return -1; }
  // Whether texts for this model begin with a BOS token, where it has one.
  virtual bool adds_bos_token() const { return true; }

  // Token ids of `text`, without BOS or EOS.
  virtual std::vector<int32_t> Encode(std::string_view text) const = 0;

  // The bytes that `ids` stand for; may be invalid UTF-8 where a character is cut (byte fallback).
  // Control tokens (BOS, EOS) decode to nothing. Ids outside the vocabulary decode to nothing.
  virtual std::string Decode(std::span<const int32_t> ids) const = 0;
};

// Reads `directory`/tokenizer.model (SentencePiece), or, where there is none, tokenizer.json
// (byte-level BPE). NOT_FOUND, INVALID_ARGUMENT name the file.
absl::StatusOr<std::unique_ptr<Tokenizer>> LoadTokenizer(const std::string& directory);

}  // namespace intermix
