#include "runtime/tokenizer/byte_level.h"

#include <cstdint>
#include <unordered_map>

#include "runtime/tokenizer/utf8.h"

namespace intermix {
namespace {

std::string Utf8(uint32_t code) {  // below U+0800
  if (code < 0x80) return std::string(1, static_cast<char>(code));
  return {static_cast<char>(0xC0 | code >> 6), static_cast<char>(0x80 | (code & 0x3F))};
}

// Printable bytes of Latin-1 stand for themselves; the others are U+0100 and on, in order.
std::unordered_map<std::string, char> MakeBytes() {
  std::unordered_map<std::string, char> bytes;
  uint32_t next = 0x100;
  for (uint32_t byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte != 0xAD);
    bytes.emplace(Utf8(printable ? byte : next++), static_cast<char>(byte));
  }
  return bytes;
}

}  // namespace

std::optional<std::string> BytesOfPiece(std::string_view piece) {
  static const std::unordered_map<std::string, char> bytes = MakeBytes();  // constant
  std::string out;
  while (!piece.empty()) {
    const Utf8Prefix prefix = FirstUtf8(piece);
    const auto found = bytes.find(std::string(piece.substr(0, prefix.length)));
    if (prefix.kind != Utf8Prefix::Kind::kCharacter || found == bytes.end()) return std::nullopt;
    out += found->second;
    piece.remove_prefix(prefix.length);
  }
  return out;
}

}  // namespace intermix
