#include "tests/runtime/sentencepiece_oracle.h"

#include <sentencepiece_processor.h>

namespace intermix {
namespace {

class Library final : public SentencePieceOracle {
 public:
  bool Load(const std::string& model) { return processor_.LoadFromSerializedProto(model).ok(); }
  std::vector<int32_t> Encode(const std::string& text) const override {
    std::vector<int> ids;
    return processor_.Encode(text, &ids).ok() ? ids : std::vector<int32_t>{-1};
  }

 private:
  sentencepiece::SentencePieceProcessor processor_;
};

}  // namespace

std::unique_ptr<SentencePieceOracle> SentencePieceOracle::Load(const std::string& model) {
  auto library = std::make_unique<Library>();
  if (!library->Load(model)) return nullptr;
  return library;
}

}  // namespace intermix
