// What Google's SentencePiece library makes of a model and a text: the oracle of our encoder. Its
// header declares an absl::string_view of its own, so the one file that includes it may not include
// Abseil, and this one neither. A process that links it cannot link protobuf
// (runtime/tokenizer/README.md).
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace intermix {

class SentencePieceOracle {
 public:
  // `model`: a serialised sentencepiece.ModelProto. Null where the library refuses it.
  static std::unique_ptr<SentencePieceOracle> Load(const std::string& model);
  virtual ~SentencePieceOracle() = default;
  virtual std::vector<int32_t> Encode(const std::string& text) const = 0;
};

}  // namespace intermix
