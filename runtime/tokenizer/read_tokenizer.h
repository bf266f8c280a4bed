// The kinds of tokenizer that LoadTokenizer chooses from, each made from the bytes of its file.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "runtime/tokenizer/tokenizer.h"

namespace intermix {

// tokenizer.model: a SentencePiece BPE model.  INVALID_ARGUMENT opening with `path`.
absl::StatusOr<std::unique_ptr<Tokenizer>> ReadSentencePieceTokenizer(std::string_view bytes,
                                                                      const std::string& path);

// tokenizer.json with a byte-level BPE model.  INVALID_ARGUMENT opening with `path`.
absl::StatusOr<std::unique_ptr<Tokenizer>> ReadByteLevelTokenizer(std::string_view bytes,
                                                                  const std::string& path);

}  // namespace intermix
