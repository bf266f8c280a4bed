#include "runtime/tokenizer/bpe_encoder.h"

#include <cmath>
#include <queue>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "runtime/tokenizer/utf8.h"

namespace intermix {
namespace {

using Kind = SentencePieceModel::Kind;

// Two neighbours that would make a piece.
struct Candidate {
  float score = 0.0f;
  int32_t left = 0;
  int32_t right = 0;
  size_t bytes = 0;  // of both, to see whether they are still what they were

  // Whether `other` goes first.
  bool operator<(const Candidate& other) const {
    return score != other.score ? score < other.score : left > other.left;
  }
};

}  // namespace

BpeEncoder::BpeEncoder(SentencePieceModel model) : model_(std::move(model)), normalizer_(model_) {}

absl::StatusOr<BpeEncoder> BpeEncoder::Make(SentencePieceModel model, const std::string& path) {
  if (model.type != SentencePieceModel::Type::kBpe) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, " is a SentencePiece model of another type than BPE; only BPE is read"));
  }
  BpeEncoder encoder(std::move(model));
  if (absl::Status s = encoder.Index(path); !s.ok()) return s;
  return encoder;
}

absl::Status BpeEncoder::Index(const std::string& path) {
  const auto bad = [&path](const std::string& what) {
    return absl::InvalidArgumentError(absl::StrCat(path, " is damaged: ", what));
  };
  std::unordered_map<std::string, int32_t> bytes;
  for (int32_t id = 0; id < std::ssize(model_.pieces); ++id) {
    const SentencePieceModel::Piece& piece = model_.pieces[id];
    if (piece.text.empty()) return bad(absl::StrCat("piece ", id, " is empty"));
    if (std::isnan(piece.score)) return bad(absl::StrCat("piece ", id, " has no score"));
    if (piece.kind == Kind::kControl && piece.text == model_.bos_piece) bos_id_ = id;
    if (piece.kind == Kind::kControl && piece.text == model_.eos_piece) eos_id_ = id;
    if (piece.kind == Kind::kByte) bytes.emplace(piece.text, id);
    if (piece.kind == Kind::kUnknown) {
      if (unknown_id_ >= 0) return bad("two pieces stand for the unknown");
      unknown_id_ = id;
    }
    const bool text = piece.kind == Kind::kNormal || piece.kind == Kind::kUserDefined ||
                      piece.kind == Kind::kUnused;
    if (text && !ids_.emplace(piece.text, id).second) {
      return bad(absl::StrCat("piece ", id, " is there twice"));
    }
  }
  if (unknown_id_ < 0) return bad("no piece stands for the unknown");
  for (int byte = 0; model_.byte_fallback && byte < 256; ++byte) {
    const auto it = bytes.find(absl::StrFormat("<0x%02X>", byte));
    if (it == bytes.end()) return bad(absl::StrCat("it has no piece for byte ", byte));
    byte_ids_[byte] = it->second;
  }
  return absl::OkStatus();
}

std::vector<BpeEncoder::Symbol> BpeEncoder::Split(std::string_view text) const {
  std::vector<Symbol> symbols;
  while (!text.empty()) {
    Symbol symbol{.previous = static_cast<int32_t>(symbols.size()) - 1};
    size_t bytes = normalizer_.UserDefinedPrefix(text);
    symbol.frozen = bytes > 0;
    if (!symbol.frozen) bytes = FirstUtf8(text).length;
    symbol.text = text.substr(0, bytes);
    text.remove_prefix(bytes);
    symbol.next = text.empty() ? -1 : static_cast<int32_t>(symbols.size()) + 1;
    symbols.push_back(symbol);
  }
  return symbols;
}

void BpeEncoder::Merge(std::vector<Symbol>& symbols, Merges& unused) const {
  std::priority_queue<Candidate> candidates;
  const auto together = [&](int32_t left, int32_t right) {  // the texts are side by side
    return std::string_view(symbols[left].text.data(),
                            symbols[left].text.size() + symbols[right].text.size());
  };
  const auto consider = [&](int32_t left, int32_t right) {
    if (left < 0 || right < 0 || symbols[left].frozen || symbols[right].frozen) return;
    const std::string_view text = together(left, right);
    const auto it = ids_.find(std::string(text));
    if (it == ids_.end()) return;
    const SentencePieceModel::Piece& piece = model_.pieces[it->second];
    candidates.push({piece.score, left, right, text.size()});
    if (piece.kind == Kind::kUnused) unused[text] = {symbols[left].text, symbols[right].text};
  };
  for (int32_t i = 0; i + 1 < std::ssize(symbols); ++i) consider(i, i + 1);
  while (!candidates.empty()) {
    const Candidate best = candidates.top();
    candidates.pop();
    Symbol& left = symbols[best.left];
    Symbol& right = symbols[best.right];
    if (left.text.empty() || right.text.empty()) continue;
    if (left.text.size() + right.text.size() != best.bytes) continue;
    left.text = together(best.left, best.right);
    left.next = right.next;
    if (right.next >= 0) symbols[right.next].previous = best.left;
    right.text = {};
    consider(left.previous, best.left);
    consider(best.left, left.next);
  }
}

void BpeEncoder::Append(std::string_view piece, const Merges& unused,
                        std::vector<int32_t>& ids) const {
  const auto it = ids_.find(std::string(piece));
  if (it != ids_.end() && model_.pieces[it->second].kind == Kind::kUnused) {
    if (const auto parts = unused.find(piece); parts != unused.end()) {
      Append(parts->second.first, unused, ids);
      Append(parts->second.second, unused, ids);
      return;
    }
  }
  if (it != ids_.end()) {
    ids.push_back(it->second);
  } else if (model_.byte_fallback) {
    for (char byte : piece) ids.push_back(byte_ids_[static_cast<uint8_t>(byte)]);
  } else if (ids.empty() || ids.back() != unknown_id_) {  // unknown neighbours are one
    ids.push_back(unknown_id_);
  }
}

std::vector<int32_t> BpeEncoder::Encode(std::string_view text) const {
  const std::string normalized = normalizer_.Normalize(text);
  std::vector<Symbol> symbols = Split(normalized);
  Merges unused;
  Merge(symbols, unused);
  std::vector<int32_t> ids;
  for (int32_t i = symbols.empty() ? -1 : 0; i >= 0; i = symbols[i].next) {
    Append(symbols[i].text, unused, ids);
  }
  return ids;
}

}  // namespace intermix
