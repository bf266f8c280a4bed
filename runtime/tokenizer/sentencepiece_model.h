// Checks the bytes of a tokenizer.model before libsentencepiece sees them, and reads what its
// public interface does not tell. The file is a protobuf message, sentencepiece.ModelProto
// (github.com/google/sentencepiece, src/sentencepiece_model.proto).
//
// The library trusts one part blindly: the compiled normalisation table, a double-array trie
// (darts-clone) with offsets into itself. A damaged one would make it read outside its memory.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace intermix {

struct SentencePieceSettings {
  bool add_dummy_prefix = true;  // encoding puts a space before the text
  bool remove_extra_whitespaces = true;
};

//   INVALID_ARGUMENT opening with `path`: not the message, a table that leads out of itself.
absl::StatusOr<SentencePieceSettings> CheckSentencePieceModel(std::string_view model,
                                                              const std::string& path);

}  // namespace intermix
