// UTF-8 classification against the table of well-formed byte sequences of the Unicode standard
// (3-7) and its examples of replacement by maximal subparts (3-8 to 3-11).
#include "runtime/tokenizer/utf8.h"

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace intermix {
namespace {

using ::testing::ElementsAre;

// Encodes a code point without any check, surrogates and values beyond U+10FFFF included.
std::string Encode(uint32_t c) {
  std::string out;
  if (c < 0x80) {
    out = {static_cast<char>(c)};
  } else if (c < 0x800) {
    out = {static_cast<char>(0xC0 | c >> 6), static_cast<char>(0x80 | (c & 63))};
  } else if (c < 0x10000) {
    out = {static_cast<char>(0xE0 | c >> 12), static_cast<char>(0x80 | (c >> 6 & 63)),
           static_cast<char>(0x80 | (c & 63))};
  } else {
    out = {static_cast<char>(0xF0 | c >> 18), static_cast<char>(0x80 | (c >> 12 & 63)),
           static_cast<char>(0x80 | (c >> 6 & 63)), static_cast<char>(0x80 | (c & 63))};
  }
  return out;
}

// Lengths of the parts that `bytes` fall into: positive for characters, negative for invalid
// sequences, 100 + n for n trailing bytes that could still become a character.
std::vector<int> Parts(std::string_view bytes) {
  std::vector<int> parts;
  while (!bytes.empty()) {
    const Utf8Prefix first = FirstUtf8(bytes);
    switch (first.kind) {
      case Utf8Prefix::Kind::kCharacter:
        parts.push_back(first.length);
        break;
      case Utf8Prefix::Kind::kInvalid:
        parts.push_back(-first.length);
        break;
      case Utf8Prefix::Kind::kIncomplete:
        parts.push_back(100 + first.length);
        break;
    }
    bytes.remove_prefix(first.length);
  }
  return parts;
}

TEST(Utf8Test, AcceptsEveryScalarValueAndNothingElse) {
  for (uint32_t c = 0; c < 0x120000; ++c) {
    const bool scalar = c < 0xD800 || (c > 0xDFFF && c <= 0x10FFFF);
    ASSERT_EQ(IsValidUtf8(Encode(c)), scalar) << std::hex << c;
  }
}

TEST(Utf8Test, RefusesOverlongForms) {
  for (const char* bytes : {"\xC0\xAF", "\xC1\xBF", "\xE0\x9F\xBF", "\xF0\x8F\xBF\xBF"}) {
    EXPECT_FALSE(IsValidUtf8(bytes));
  }
}

TEST(Utf8Test, WaitsForTheRestOfACharacter) {
  const std::string euro = "\xE2\x82\xAC";
  EXPECT_THAT(Parts(euro.substr(0, 1)), ElementsAre(101));
  EXPECT_THAT(Parts(euro.substr(0, 2)), ElementsAre(102));
  EXPECT_THAT(Parts(euro), ElementsAre(3));
  EXPECT_THAT(Parts("\xF0\x9F\x99"), ElementsAre(103));
}

TEST(Utf8Test, InvalidSequencesAreMaximalSubparts) {
  // Table 3-8: C0 AF E0 80 BF F0 81 82 41 -> eight replacements, then A.
  EXPECT_THAT(Parts("\xC0\xAF\xE0\x80\xBF\xF0\x81\x82\x41"),
              ElementsAre(-1, -1, -1, -1, -1, -1, -1, -1, 1));
  // Table 3-11: E1 80 E2 F0 91 92 F1 BF 41 -> four replacements, then A.
  EXPECT_THAT(Parts("\xE1\x80\xE2\xF0\x91\x92\xF1\xBF\x41"), ElementsAre(-2, -1, -3, -2, 1));
}

}  // namespace
}  // namespace intermix
