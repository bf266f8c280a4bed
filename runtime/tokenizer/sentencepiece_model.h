// What a tokenizer.model says. The file is a protobuf message, sentencepiece.ModelProto
// (github.com/google/sentencepiece, src/sentencepiece_model.proto); it is read by hand, because the
// SentencePiece library cannot share a process with gRPC: Debian's build exports a copy of an older
// protobuf, whose symbols take the place of the real ones (README.md).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace intermix {

inline constexpr char kSpacePiece[] = "\xE2\x96\x81";  // U+2581, how pieces spell a space

struct SentencePieceModel {
  enum class Kind : uint8_t { kNormal = 1, kUnknown, kControl, kUserDefined, kUnused, kByte };
  struct Piece {
    std::string text;  // a space is spelled U+2581; a byte "<0x0A>"
    float score = 0.0f;
    Kind kind = Kind::kNormal;
  };
  enum class Type : uint8_t { kUnigram = 1, kBpe, kWord, kChar };

  std::vector<Piece> pieces;  // by id
  // TrainerSpec
  Type type = Type::kUnigram;
  bool byte_fallback = false;         // characters without a piece become bytes
  bool whitespace_is_suffix = false;  // the dummy space comes after the text
  std::string bos_piece = "<s>";
  std::string eos_piece = "</s>";
  // NormalizerSpec
  bool add_dummy_prefix = true;  // encoding puts a space before the text
  bool remove_extra_whitespaces = true;
  bool escape_whitespaces = true;  // a space is spelled U+2581 in pieces
  // 4 bytes of trie length, a darts-clone double array, and the null-terminated texts that it leads
  // to; empty: every character stands for itself. No walk of it leads outside.
  std::string chars_map;
};

//   INVALID_ARGUMENT opening with `path`: not the message, or a table that leads out of itself.
absl::StatusOr<SentencePieceModel> ReadSentencePieceModel(std::string_view bytes,
                                                          const std::string& path);

}  // namespace intermix
