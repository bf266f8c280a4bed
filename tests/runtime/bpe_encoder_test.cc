// Our encoder against the SentencePiece library: random models with every setting, random texts,
// the same ids.
#include "runtime/tokenizer/bpe_encoder.h"

#include <bit>
#include <fstream>
#include <random>
#include <set>
#include <sstream>

#include "absl/strings/str_format.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/runtime/sentencepiece_oracle.h"
#include "tests/testing/test_paths.h"

namespace intermix {
namespace {

using ::testing::HasSubstr;

std::string ReadAll(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

// Writing a protobuf message by hand.
std::string Varint(uint64_t value) {
  std::string out;
  for (; value >= 0x80; value >>= 7) out += static_cast<char>(value | 0x80);
  return out + static_cast<char>(value);
}
std::string Number(int field, uint64_t value) { return Varint(field << 3) + Varint(value); }
std::string Bytes(int field, const std::string& bytes) {
  return Varint(field << 3 | 2) + Varint(bytes.size()) + bytes;
}
std::string Float(int field, float value) {
  std::string out = Varint(field << 3 | 5);
  for (int i = 0; i < 4; ++i) out += static_cast<char>(std::bit_cast<uint32_t>(value) >> (8 * i));
  return out;
}

enum Kind { kNormal = 1, kUnknown, kControl, kUserDefined, kUnused, kByte };

std::string Piece(const std::string& text, float score, Kind kind) {
  return Bytes(1, Bytes(1, text) + Float(2, score) + Number(3, kind));
}

struct Settings {
  bool byte_fallback = true;
  bool suffix = false;
  bool dummy_prefix = true;
  bool remove_extra = false;
  bool escape = true;
  std::string chars_map;
};

std::string Model(const std::string& pieces, const Settings& s) {
  const std::string trainer =
      Number(3, 2) + Number(24, s.suffix) + Number(35, s.byte_fallback);  // type: BPE
  std::string normalizer =
      Number(3, s.dummy_prefix) + Number(4, s.remove_extra) + Number(5, s.escape);
  if (!s.chars_map.empty()) normalizer += Bytes(2, s.chars_map);
  return pieces + Bytes(2, trainer) + Bytes(3, normalizer);
}

// A table that maps 'q' to "bb" and nothing else: a double array whose root leads by 'q' (0x71) to
// unit 0x70, which has a leaf at 0x72 with the value 0.
std::string CharsMapOfQ() {
  std::vector<uint32_t> units(256, 0x80000000u);
  units[0] = 1u << 10;
  units[0x70] = 2u << 10 | 0x100 | 'q';
  units[0x72] = 0x80000000u;
  std::string table = {0, 4, 0, 0};
  for (uint32_t unit : units) {
    for (int i = 0; i < 4; ++i) table += static_cast<char>(unit >> (8 * i));
  }
  return table + std::string("bb\0", 3);
}

class Random {
 public:
  explicit Random(uint32_t seed) : engine_(seed) {}
  uint32_t Below(uint32_t n) { return static_cast<uint32_t>(engine_() % n); }
  bool OneIn(uint32_t n) { return Below(n) == 0; }
  // Up to `length` parts of `alphabet`.
  std::string Text(const std::vector<std::string>& alphabet, uint32_t length) {
    std::string text;
    for (uint32_t n = Below(length + 1); n > 0; --n) text += alphabet[Below(alphabet.size())];
    return text;
  }

 private:
  std::mt19937 engine_;
};

const std::vector<std::string> kLetters = {"a", "b", "c", "\u00e9", "\u65e5", "\u2581"};

// Letters, most of them; pieces of several letters, that others can be merged into or not; scores
// with ties; user-defined and unused ones among them.
std::string RandomModel(Random& random, const Settings& settings) {
  std::set<std::string> seen = {"<unk>"};
  std::string pieces = Piece("<unk>", 0, kUnknown);
  pieces += Piece("<s>", 0, kControl) + Piece("</s>", 0, kControl);
  for (int byte = 0; settings.byte_fallback && byte < 256; ++byte) {
    pieces += Piece(absl::StrFormat("<0x%02X>", byte), 0, kByte);
  }
  const auto add = [&](const std::string& text, Kind kind) {
    if (text.empty() || !seen.insert(text).second) return;
    pieces += Piece(text, -static_cast<float>(random.Below(20)), kind);
  };
  for (const std::string& letter : kLetters) {
    if (!random.OneIn(6)) add(letter, kNormal);
  }
  for (int i = 0; i < 60; ++i) {
    const Kind kind = random.OneIn(20) ? kUserDefined : random.OneIn(8) ? kUnused : kNormal;
    add(random.Text(kLetters, 5), kind);
  }
  return Model(pieces, settings);
}

Settings RandomSettings(Random& random) {
  return {.byte_fallback = !random.OneIn(3),
          .suffix = random.OneIn(4),
          .dummy_prefix = !random.OneIn(3),
          .remove_extra = random.OneIn(2),
          .escape = !random.OneIn(5),
          .chars_map = random.OneIn(2) ? CharsMapOfQ() : ""};
}

BpeEncoder Encoder(const std::string& model) {
  auto read = ReadSentencePieceModel(model, "m");
  EXPECT_TRUE(read.ok()) << read.status();
  auto encoder = BpeEncoder::Make(*std::move(read), "m");
  EXPECT_TRUE(encoder.ok()) << encoder.status();
  return *std::move(encoder);
}

TEST(BpeEncoderTest, RandomModelsGiveTheLibrarysIds) {
  const std::vector<std::string> alphabet = {"a",    "b",        "a", "c", "\u00e9", "\u65e5",
                                             " ",    " ",        "q", "x", "\n",     "\u2581",
                                             "\xFF", "\xE2\x82", "b", "c", "ab",     "\xC3"};
  for (uint32_t seed = 0; seed < 200; ++seed) {
    Random random(seed);
    const std::string model = RandomModel(random, RandomSettings(random));
    const auto oracle = SentencePieceOracle::Load(model);
    ASSERT_NE(oracle, nullptr) << seed;
    const BpeEncoder encoder = Encoder(model);
    for (int i = 0; i < 50; ++i) {
      const std::string text = random.Text(alphabet, 30);
      ASSERT_EQ(encoder.Encode(text), oracle->Encode(text))
          << "seed " << seed << ", '" << text << "'";
    }
  }
}

TEST(BpeEncoderTest, TinyMixtralsIdsAreTheLibrarys) {
  const std::string model = ReadAll(TestData() + "/tiny-mixtral/tokenizer.model");
  const auto oracle = SentencePieceOracle::Load(model);
  ASSERT_NE(oracle, nullptr);
  const BpeEncoder encoder = Encoder(model);
  const std::string book = ReadAll(TestData() + "/text/kjv-heldout.txt");
  EXPECT_EQ(encoder.Encode(book), oracle->Encode(book)) << "the whole text at once";
  Random random(1);
  const std::vector<std::string> odd = {" ",          "\n",     "\t",  "\u00a0",
                                        "\U0001F600", "\xFF",   "<s>", "</s>",
                                        "<0x0A>",     "\u2581", "0",   "\xE2\x82"};
  for (int i = 0; i < 500; ++i) {
    const size_t begin = random.Below(static_cast<uint32_t>(book.size()));
    const std::string text =
        random.Text(odd, 3) + book.substr(begin, random.Below(60)) + random.Text(odd, 3);
    ASSERT_EQ(encoder.Encode(text), oracle->Encode(text)) << "'" << text << "'";
  }
}

TEST(BpeEncoderTest, RefusesOtherAndBrokenModels) {
  const std::string unknown = Piece("<unk>", 0, kUnknown);
  const std::vector<std::pair<std::string, std::string>> bad = {
      {"only BPE", unknown + Bytes(2, Number(3, 1))},
      {"no piece stands for the unknown", Model(Piece("a", 0, kNormal), {.byte_fallback = false})},
      {"two pieces", Model(unknown + unknown, {.byte_fallback = false})},
      {"is there twice",
       Model(unknown + Piece("a", 0, kNormal) + Piece("a", 1, kNormal), {.byte_fallback = false})},
      {"is empty", Model(unknown + Piece("", 0, kNormal), {.byte_fallback = false})},
      {"no score", Model(unknown + Piece("a", NAN, kNormal), {.byte_fallback = false})},
      {"byte 0", Model(unknown, {.byte_fallback = true})},
  };
  for (const auto& [why, model] : bad) {
    auto read = ReadSentencePieceModel(model, "path");
    ASSERT_TRUE(read.ok()) << read.status();
    const auto encoder = BpeEncoder::Make(*std::move(read), "path");
    EXPECT_EQ(encoder.status().code(), absl::StatusCode::kInvalidArgument) << why;
    EXPECT_THAT(std::string(encoder.status().message()), HasSubstr(why));
    EXPECT_THAT(std::string(encoder.status().message()), HasSubstr("path"));
  }
}

}  // namespace
}  // namespace intermix
