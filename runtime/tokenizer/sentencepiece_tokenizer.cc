// Tokenizer over libsentencepiece. Encoding is the library's; decoding is done here from the
// pieces, because the library's replaces the bytes of a character that is not whole yet.

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <system_error>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "runtime/tokenizer/sentencepiece_library.h"
#include "runtime/tokenizer/sentencepiece_model.h"
#include "runtime/tokenizer/tokenizer.h"

namespace intermix {
namespace {

constexpr char kSpacePiece[] = "\xE2\x96\x81";     // U+2581, how pieces spell a space
constexpr char kUnknownText[] = " \xE2\x81\x87 ";  // U+2047, what the library shows for <unk>

class SentencePieceTokenizer : public Tokenizer {
 public:
  SentencePieceTokenizer(std::unique_ptr<SentencePieceLibrary> library,
                         const SentencePieceSettings& settings)
      : library_(std::move(library)),
        drops_leading_space_(settings.add_dummy_prefix || settings.remove_extra_whitespaces) {
    for (int32_t id = 0; id < library_->num_pieces(); ++id) pieces_.push_back(ReadPiece(id));
  }

  int32_t vocab_size() const override { return static_cast<int32_t>(pieces_.size()); }
  int32_t bos_token_id() const override { return library_->bos_id(); }
  int32_t eos_token_id() const override { return library_->eos_id(); }

  std::vector<int32_t> Encode(std::string_view text) const override {
    return library_->Encode(text);
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

  Piece ReadPiece(int32_t id) const {
    const SentencePieceLibrary::Kind kind = library_->KindOf(id);
    if (kind == SentencePieceLibrary::Kind::kControl) return {.control = true};
    if (kind == SentencePieceLibrary::Kind::kUnknown) return {.bytes = kUnknownText};
    const std::string text = library_->PieceOf(id);
    uint32_t byte = 0;
    if (kind == SentencePieceLibrary::Kind::kByte && text.size() == 6 &&
        absl::SimpleHexAtoi(text.substr(1, 4), &byte)) {  // "<0x0A>"
      return {.bytes = std::string(1, static_cast<char>(byte))};
    }
    return {.bytes = absl::StrReplaceAll(text, {{kSpacePiece, " "}}),
            .leading_space = text.rfind(kSpacePiece, 0) == 0};
  }

  std::unique_ptr<SentencePieceLibrary> library_;
  bool drops_leading_space_;
  std::vector<Piece> pieces_;
};

absl::StatusOr<std::string> ReadFile(const std::string& path) {
  constexpr uint64_t kMaxBytes = uint64_t{256} << 20;
  std::error_code error;
  if (!std::filesystem::is_regular_file(path, error)) {
    return absl::NotFoundError(absl::StrCat("there is no file ", path));
  }
  const uint64_t size = std::filesystem::file_size(path, error);
  if (error || size > kMaxBytes) {
    return absl::InvalidArgumentError(absl::StrCat(path, " is too large for a tokenizer"));
  }
  std::string bytes(size, '\0');
  std::ifstream file(path, std::ios::binary);
  if (!file.read(bytes.data(), static_cast<std::streamsize>(size))) {
    return absl::InvalidArgumentError(absl::StrCat("cannot read ", path));
  }
  return bytes;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> LoadTokenizer(const std::string& directory) {
  const std::string path = absl::StrCat(directory, "/tokenizer.model");
  const absl::StatusOr<std::string> model = ReadFile(path);
  if (!model.ok()) return model.status();
  const absl::StatusOr<SentencePieceSettings> settings = CheckSentencePieceModel(*model, path);
  if (!settings.ok()) return settings.status();
  std::string error;
  std::unique_ptr<SentencePieceLibrary> library = SentencePieceLibrary::Load(*model, error);
  if (library == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat(path, " is not a SentencePiece model: ", error));
  }
  return std::make_unique<SentencePieceTokenizer>(std::move(library), *settings);
}

}  // namespace intermix
