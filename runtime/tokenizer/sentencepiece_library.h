// A narrow wall around libsentencepiece: its header declares an absl::string_view of its own, so
// the one file that includes it (sentencepiece_library.cc) may not include Abseil, and this one
// neither. Immutable after Load; safe to use from several threads at once.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace intermix {

class SentencePieceLibrary {
 public:
  enum class Kind : uint8_t { kText, kByte, kUnknown, kControl };

  // The bytes of a tokenizer.model, checked by CheckSentencePieceModel. Null and `error` set where
  // the library refuses them.
  static std::unique_ptr<SentencePieceLibrary> Load(std::string_view model, std::string& error);
  virtual ~SentencePieceLibrary() = default;

  virtual int32_t num_pieces() const = 0;
  virtual int32_t bos_id() const = 0;  // -1: none
  virtual int32_t eos_id() const = 0;  // -1: none
  virtual Kind KindOf(int32_t id) const = 0;
  virtual std::string PieceOf(int32_t id) const = 0;
  virtual std::vector<int32_t> Encode(std::string_view text) const = 0;
};

}  // namespace intermix
