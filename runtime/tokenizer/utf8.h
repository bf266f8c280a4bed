// UTF-8 (RFC 3629): which bytes are characters. Pure functions; any thread.
#pragma once

#include <string_view>

namespace intermix {

// What stands for bytes that are no character: U+FFFD.
inline constexpr std::string_view kReplacementCharacter = "\xEF\xBF\xBD";

// What stands at the beginning of some bytes.
struct Utf8Prefix {
  enum class Kind { kCharacter, kInvalid, kIncomplete };
  Kind kind = Kind::kIncomplete;
  // Bytes of the character; or of the invalid sequence, to be replaced by one U+FFFD (its longest
  // part that could have begun a character, as the Unicode standard recommends); or all the bytes,
  // where more could still complete a character.
  int length = 0;
};

// `bytes` is not empty.
Utf8Prefix FirstUtf8(std::string_view bytes);

bool IsValidUtf8(std::string_view bytes);

}  // namespace intermix
