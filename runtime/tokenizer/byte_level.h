// The spelling of bytes in GPT-2's vocabularies: each byte is one printable character, so that a
// piece of any bytes is a text. Pure functions; any thread.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace intermix {

// The bytes that `piece` spells; nothing where a character of it stands for none.
std::optional<std::string> BytesOfPiece(std::string_view piece);

}  // namespace intermix
