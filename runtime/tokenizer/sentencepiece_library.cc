#include "runtime/tokenizer/sentencepiece_library.h"

#include <sentencepiece_processor.h>

#include <exception>

namespace intermix {
namespace {

class ProcessorLibrary : public SentencePieceLibrary {
 public:
  sentencepiece::SentencePieceProcessor& processor() { return processor_; }

  int32_t num_pieces() const override { return processor_.GetPieceSize(); }
  int32_t bos_id() const override { return processor_.bos_id(); }
  int32_t eos_id() const override { return processor_.eos_id(); }
  Kind KindOf(int32_t id) const override {
    if (processor_.IsControl(id)) return Kind::kControl;
    if (processor_.IsUnknown(id)) return Kind::kUnknown;
    return processor_.IsByte(id) ? Kind::kByte : Kind::kText;
  }
  std::string PieceOf(int32_t id) const override { return processor_.IdToPiece(id); }
  std::vector<int32_t> Encode(std::string_view text) const override {
    std::vector<int> ids;
    return processor_.Encode(text, &ids).ok() ? ids : std::vector<int32_t>();
  }

 private:
  sentencepiece::SentencePieceProcessor processor_;
};

}  // namespace

std::unique_ptr<SentencePieceLibrary> SentencePieceLibrary::Load(std::string_view model,
                                                                 std::string& error) {
  auto library = std::make_unique<ProcessorLibrary>();
  try {  // the library reports most damage as a status, but its trie builder throws
    const sentencepiece::util::Status status = library->processor().LoadFromSerializedProto(model);
    if (status.ok()) return library;
    error = status.message();
  } catch (const std::exception& thrown) {
    error = thrown.what();
  }
  return nullptr;
}

}  // namespace intermix
