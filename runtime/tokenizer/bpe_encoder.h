// BpeEncoder: cuts a normalised text into the pieces of a SentencePiece BPE model: starting from
// characters, the neighbours whose piece has the best score become one, the leftmost first among
// equals, until no neighbours make a piece. Immutable; any thread. Time is n log n.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/tokenizer/sentencepiece_model.h"
#include "runtime/tokenizer/sentencepiece_normalizer.h"

namespace intermix {

class BpeEncoder {
 public:
  //   INVALID_ARGUMENT opening with `path`: not a BPE model, or its pieces are inconsistent.
  static absl::StatusOr<BpeEncoder> Make(SentencePieceModel model, const std::string& path);

  std::vector<int32_t> Encode(std::string_view text) const;

  const SentencePieceModel& model() const { return model_; }
  int32_t bos_id() const { return bos_id_; }  // -1: none
  int32_t eos_id() const { return eos_id_; }  // -1: none

 private:
  // A part of the text, linked to its neighbours by index; -1: none.
  struct Symbol {
    std::string_view text;  // empty: became part of its left neighbour
    int32_t previous = -1;
    int32_t next = -1;
    bool frozen = false;  // user-defined: takes part in no merge
  };
  // How an unused piece was made, for taking it apart again.
  using Merges =
      std::unordered_map<std::string_view, std::pair<std::string_view, std::string_view>>;

  explicit BpeEncoder(SentencePieceModel model);
  absl::Status Index(const std::string& path);
  std::vector<Symbol> Split(std::string_view text) const;
  void Merge(std::vector<Symbol>& symbols, Merges& unused) const;
  void Append(std::string_view piece, const Merges& unused, std::vector<int32_t>& ids) const;

  SentencePieceModel model_;
  SentencePieceNormalizer normalizer_;
  std::unordered_map<std::string, int32_t> ids_;  // of pieces that text can become
  std::array<int32_t, 256> byte_ids_{};           // where byte_fallback is set
  int32_t unknown_id_ = -1;
  int32_t bos_id_ = -1;
  int32_t eos_id_ = -1;
};

}  // namespace intermix
