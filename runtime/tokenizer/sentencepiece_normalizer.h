// What SentencePiece does to a text before it looks for pieces (normalizer.cc of the library): maps
// characters by the model's table, and spells spaces as pieces do. Immutable; any thread.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "runtime/tokenizer/sentencepiece_model.h"

namespace intermix {

class SentencePieceNormalizer {
 public:
  explicit SentencePieceNormalizer(const SentencePieceModel& model);

  // Always valid UTF-8: what is none in `text` becomes U+FFFD, byte for byte.
  std::string Normalize(std::string_view text) const;

  // Bytes of the longest user-defined piece that opens `text`; 0: none does. Such pieces are kept
  // as they are, here and by the encoder.
  size_t UserDefinedPrefix(std::string_view text) const;

 private:
  // What the text begins with, and how many of its bytes that stands for.
  struct Prefix {
    std::string_view normalized;
    size_t bytes = 0;
  };
  Prefix NormalizePrefix(std::string_view text) const;
  Prefix LongestMapped(std::string_view text) const;  // bytes 0: the table maps nothing here

  bool add_dummy_prefix_;
  bool whitespace_is_suffix_;
  bool remove_extra_whitespaces_;
  bool escape_whitespaces_;
  std::vector<uint32_t> trie_;  // darts-clone units; empty: no table
  std::string mapped_texts_;    // null-terminated
  std::vector<std::string> user_defined_;
};

}  // namespace intermix
