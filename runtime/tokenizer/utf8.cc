#include "runtime/tokenizer/utf8.h"

#include <cstdint>

namespace intermix {
namespace {

// The bytes a character has by its first one, and the range its second one must be in (which
// excludes overlong forms, surrogates and what lies beyond U+10FFFF). 0: it begins no character.
struct Lead {
  int length;
  uint8_t low;
  uint8_t high;
};

Lead LeadOf(uint8_t byte) {
  if (byte < 0x80) return {1, 0, 0};
  if (byte < 0xC2) return {0, 0, 0};
  if (byte < 0xE0) return {2, 0x80, 0xBF};
  if (byte == 0xE0) return {3, 0xA0, 0xBF};
  if (byte == 0xED) return {3, 0x80, 0x9F};
  if (byte < 0xF0) return {3, 0x80, 0xBF};
  if (byte == 0xF0) return {4, 0x90, 0xBF};
  if (byte < 0xF4) return {4, 0x80, 0xBF};
  if (byte == 0xF4) return {4, 0x80, 0x8F};
  return {0, 0, 0};
}

}  // namespace

Utf8Prefix FirstUtf8(std::string_view bytes) {
  const Lead lead = LeadOf(static_cast<uint8_t>(bytes[0]));
  if (lead.length == 0) return {Utf8Prefix::Kind::kInvalid, 1};
  for (int i = 1; i < lead.length; ++i) {
    if (i == static_cast<int>(bytes.size())) return {Utf8Prefix::Kind::kIncomplete, i};
    const uint8_t byte = static_cast<uint8_t>(bytes[i]);
    const uint8_t low = i == 1 ? lead.low : 0x80;
    const uint8_t high = i == 1 ? lead.high : 0xBF;
    if (byte < low || byte > high) return {Utf8Prefix::Kind::kInvalid, i};
  }
  return {Utf8Prefix::Kind::kCharacter, lead.length};
}

bool IsValidUtf8(std::string_view bytes) {
  while (!bytes.empty()) {
    const Utf8Prefix first = FirstUtf8(bytes);
    if (first.kind != Utf8Prefix::Kind::kCharacter) return false;
    bytes.remove_prefix(first.length);
  }
  return true;
}

}  // namespace intermix
