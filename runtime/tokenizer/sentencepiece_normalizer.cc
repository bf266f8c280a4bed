#include "runtime/tokenizer/sentencepiece_normalizer.h"

#include <algorithm>
#include <cstring>

#include "runtime/tokenizer/utf8.h"

namespace intermix {
namespace {

bool EndsWith(std::string_view text, std::string_view end) {
  return text.size() >= end.size() && text.substr(text.size() - end.size()) == end;
}

}  // namespace

SentencePieceNormalizer::SentencePieceNormalizer(const SentencePieceModel& model)
    : add_dummy_prefix_(model.add_dummy_prefix),
      whitespace_is_suffix_(model.whitespace_is_suffix),
      remove_extra_whitespaces_(model.remove_extra_whitespaces),
      escape_whitespaces_(model.escape_whitespaces) {
  for (const SentencePieceModel::Piece& piece : model.pieces) {
    if (piece.kind == SentencePieceModel::Kind::kUserDefined) user_defined_.push_back(piece.text);
  }
  if (model.chars_map.empty()) return;
  uint32_t trie_bytes = 0;
  std::memcpy(&trie_bytes, model.chars_map.data(), sizeof(trie_bytes));
  trie_.resize(trie_bytes / sizeof(uint32_t));
  std::memcpy(trie_.data(), model.chars_map.data() + sizeof(trie_bytes), trie_bytes);
  mapped_texts_ = model.chars_map.substr(sizeof(trie_bytes) + trie_bytes);
}

size_t SentencePieceNormalizer::UserDefinedPrefix(std::string_view text) const {
  size_t longest = 0;
  for (const std::string& piece : user_defined_) {
    if (text.substr(0, piece.size()) == piece) longest = std::max(longest, piece.size());
  }
  return longest;
}

// Walks the double array along the text (darts-clone: a unit holds its label in the low byte, the
// offset of its children above, and bit 8 says that a value ends here).
SentencePieceNormalizer::Prefix SentencePieceNormalizer::LongestMapped(
    std::string_view text) const {
  if (trie_.empty()) return {};
  const auto children = [](uint32_t unit) { return size_t{unit >> 10} << ((unit & 0x200u) >> 6); };
  Prefix longest;
  size_t position = children(trie_[0]);
  for (size_t i = 0; i < text.size(); ++i) {
    const uint8_t byte = static_cast<uint8_t>(text[i]);
    position ^= byte;
    const uint32_t unit = trie_[position];
    if ((unit & 0x800000FFu) != byte) break;
    position ^= children(unit);
    if ((unit & 0x100u) == 0) continue;
    const uint32_t value = trie_[position] & 0x7FFFFFFFu;
    longest = {.normalized = mapped_texts_.c_str() + value, .bytes = i + 1};
  }
  return longest;
}

SentencePieceNormalizer::Prefix SentencePieceNormalizer::NormalizePrefix(
    std::string_view text) const {
  if (const size_t bytes = UserDefinedPrefix(text); bytes > 0)
    return {text.substr(0, bytes), bytes};
  if (const Prefix mapped = LongestMapped(text); mapped.bytes > 0) return mapped;
  const Utf8Prefix first = FirstUtf8(text);
  if (first.kind != Utf8Prefix::Kind::kCharacter) return {kReplacementCharacter, 1};
  return {text.substr(0, first.length), static_cast<size_t>(first.length)};
}

std::string SentencePieceNormalizer::Normalize(std::string_view text) const {
  if (remove_extra_whitespaces_) {
    while (!text.empty()) {
      const Prefix prefix = NormalizePrefix(text);
      if (prefix.normalized != " ") break;
      text.remove_prefix(prefix.bytes);
    }
  }
  if (text.empty()) return "";
  const std::string_view space = escape_whitespaces_ ? kSpacePiece : " ";
  std::string out;
  if (add_dummy_prefix_ && !whitespace_is_suffix_) out += space;
  bool after_space = remove_extra_whitespaces_;
  while (!text.empty()) {
    const Prefix prefix = NormalizePrefix(text);
    std::string_view part = prefix.normalized;
    while (after_space && !part.empty() && part[0] == ' ') part.remove_prefix(1);
    for (char c : part) c == ' ' ? out += space : out += c;
    if (!part.empty()) after_space = remove_extra_whitespaces_ && part.back() == ' ';
    text.remove_prefix(prefix.bytes);
  }
  while (remove_extra_whitespaces_ && EndsWith(out, space)) out.resize(out.size() - space.size());
  if (add_dummy_prefix_ && whitespace_is_suffix_) out += space;
  return out;
}

}  // namespace intermix
