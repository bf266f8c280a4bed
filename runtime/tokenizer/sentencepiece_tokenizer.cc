// Tokenizer of SentencePiece BPE models.

#include <cstdint>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "runtime/tokenizer/bpe_encoder.h"
#include "runtime/tokenizer/read_tokenizer.h"
#include "runtime/tokenizer/sentencepiece_model.h"

namespace intermix {
namespace {

constexpr char kUnknownText[] = " \xE2\x81\x87 ";  // U+2047, what the library shows for <unk>

class SentencePieceTokenizer : public Tokenizer {
 public:
  explicit SentencePieceTokenizer(BpeEncoder encoder)
      : encoder_(std::move(encoder)),
        drops_leading_space_(encoder_.model().add_dummy_prefix ||
                             encoder_.model().remove_extra_whitespaces) {
    for (const SentencePieceModel::Piece& piece : encoder_.model().pieces) {
      pieces_.push_back(ReadPiece(piece));
    }
  }

  int32_t vocab_size() const override { return static_cast<int32_t>(pieces_.size()); }
  int32_t bos_token_id() const override { return encoder_.bos_id(); }
  int32_t eos_token_id() const override { return encoder_.eos_id(); }

  int32_t SpecialTokenId(std::string_view piece) const override {
    for (int32_t id = 0; id < vocab_size(); ++id) {
      if (pieces_[id].control && encoder_.model().pieces[id].text == piece) return id;
    }
    return -1;
  }
  std::vector<int32_t> Encode(std::string_view text) const override {
    return encoder_.Encode(text);
  }

  std::string Decode(std::span<const int32_t> ids) const override {
    std::string text;
    bool first = true;  // the first piece that is no control token
    for (int32_t id : ids) {
      if (id < 0 || id >= vocab_size() || pieces_[id].control) continue;
      const Piece& piece = pieces_[id];
      const bool drop = first && drops_leading_space_ && piece.leading_space;
      text.append(piece.bytes, drop ? 1 : 0);
      first = false;
    }
    return text;
  }

 private:
  struct Piece {
    std::string bytes;
    bool control = false;
    bool leading_space = false;  // that encoding may have put there
  };

  static Piece ReadPiece(const SentencePieceModel::Piece& piece) {
    using Kind = SentencePieceModel::Kind;
    if (piece.kind == Kind::kControl) return {.control = true};
    if (piece.kind == Kind::kUnknown) return {.bytes = kUnknownText};
    uint32_t byte = 0;
    if (piece.kind == Kind::kByte && piece.text.size() == 6 &&
        absl::SimpleHexAtoi(piece.text.substr(1, 4), &byte)) {  // "<0x0A>"
      return {.bytes = std::string(1, static_cast<char>(byte))};
    }
    return {.bytes = absl::StrReplaceAll(piece.text, {{kSpacePiece, " "}}),
            .leading_space = piece.text.rfind(kSpacePiece, 0) == 0};
  }

  BpeEncoder encoder_;
  bool drops_leading_space_;
  std::vector<Piece> pieces_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> ReadSentencePieceTokenizer(std::string_view bytes,
                                                                      const std::string& path) {
  absl::StatusOr<SentencePieceModel> model = ReadSentencePieceModel(bytes, path);
  if (!model.ok()) return model.status();
  absl::StatusOr<BpeEncoder> encoder = BpeEncoder::Make(*std::move(model), path);
  if (!encoder.ok()) return encoder.status();
  return std::make_unique<SentencePieceTokenizer>(*std::move(encoder));
}

}  // namespace intermix
