// What a tokenizer.json says, of those with a byte-level BPE model (GPT-2, Llama 3, SmolLM2): the
// file of Hugging Face's tokenizers library, https://huggingface.co/docs/tokenizers.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/tokenizer/regex.h"

namespace intermix {

struct TokenizerJson {
  struct Merge {
    int32_t left = 0;
    int32_t right = 0;
    int32_t result = 0;
  };
  // Cuts a text at the matches of a pattern; what lies between them is kept as it is, or dropped.
  struct Split {
    Regex pattern;
    bool keeps_gaps = true;
  };
  struct AddedToken {
    int32_t id = 0;
    std::string content;
    bool special = false;
  };

  std::vector<std::string> pieces;  // by id: bytes; empty where there is none
  std::vector<bool> special;        // by id
  std::vector<Merge> merges;        // the first ones go first
  bool ignore_merges = false;       // a word that is a piece is not merged from its bytes
  std::vector<Split> splits;        // one after the other
  std::vector<AddedToken> added;    // found in text before it is split
  int32_t bos_id = -1;              // put before a text; -1: none
};

//   INVALID_ARGUMENT opening with `path`: not the file, or one that works in another way.
absl::StatusOr<TokenizerJson> ReadTokenizerJson(std::string_view json, const std::string& path);

}  // namespace intermix
