// The tokenizer against ids that sentencepiece's own Python package produced, and against bad
// files.
#include "runtime/tokenizer/tokenizer.h"

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <random>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "runtime/tokenizer/sentencepiece_model.h"
#include "tests/testing/test_paths.h"

namespace intermix {
namespace {

using nlohmann::json;

std::string ReadAll(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

json Golden() { return json::parse(ReadAll(TestData() + "/golden/tiny-mixtral.json")); }

std::unique_ptr<Tokenizer> TinyTokenizer() {
  auto tokenizer = LoadTokenizer(TestData() + "/tiny-mixtral");
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return *std::move(tokenizer);
}

// A directory of its own that holds `model` as tokenizer.model; gone with the object.
class ModelDirectory {
 public:
  explicit ModelDirectory(const std::string& model)
      : path_(absl::StrCat(testing::TempDir(), "/tokenizer_test_", getpid())) {
    std::filesystem::create_directories(path_);
    std::ofstream(path_ + "/tokenizer.model", std::ios::binary) << model;
  }
  ~ModelDirectory() { std::filesystem::remove_all(path_); }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

TEST(Tokenizer, EncodesLikeTheGoldenIds) {
  const auto tokenizer = TinyTokenizer();
  const json golden = Golden();
  for (const json& prompt : golden["prompts"]) {
    std::vector<int32_t> ids = {tokenizer->bos_token_id()};
    for (int32_t id : tokenizer->Encode(prompt["text"].get<std::string>())) ids.push_back(id);
    EXPECT_EQ(ids, prompt["ids"].get<std::vector<int32_t>>()) << prompt["text"];
  }
}

TEST(Tokenizer, DecodesTheGoldenContinuations) {
  const auto tokenizer = TinyTokenizer();
  const json golden = Golden();
  for (const json& prompt : golden["prompts"]) {
    auto ids = prompt["ids"].get<std::vector<int32_t>>();
    EXPECT_EQ(tokenizer->Decode(ids), prompt["text"]);
    const auto output = prompt["greedy32"].get<std::vector<int32_t>>();
    ids.insert(ids.end(), output.begin(), output.end());
    const std::string all = tokenizer->Decode(ids);
    EXPECT_THAT(all, testing::EndsWith(prompt["greedy32_text"].get<std::string>()));
  }
}

TEST(Tokenizer, KnowsItsSpecialTokens) {
  const auto tokenizer = TinyTokenizer();
  EXPECT_EQ(tokenizer->vocab_size(), 2048);
  EXPECT_EQ(tokenizer->bos_token_id(), 1);
  EXPECT_EQ(tokenizer->eos_token_id(), 2);
  EXPECT_EQ(tokenizer->Decode(std::vector<int32_t>{1, 2, -1, 2048, 1 << 30}), "");
}

TEST(Tokenizer, EveryTextComesBack) {
  const auto tokenizer = TinyTokenizer();
  for (const std::string text :
       {"", " two spaces  inside", "line\nbreak\ttab", "caf\u00e9 \u65e5\u672c \U0001F600", "\n"}) {
    EXPECT_EQ(tokenizer->Decode(tokenizer->Encode(text)), text);
  }
}

TEST(Tokenizer, DecodesAByteOfACharacterAsThatByte) {
  const auto tokenizer = TinyTokenizer();
  std::vector<int32_t> ids = tokenizer->Encode("\U0001F600");
  ids.pop_back();
  const std::string cut = tokenizer->Decode(ids);
  EXPECT_EQ(cut, std::string("\U0001F600").substr(0, 3));
}

TEST(Tokenizer, NamesTheFileThatIsMissingOrWrong) {
  const auto missing = LoadTokenizer("/nonexistent");
  EXPECT_EQ(missing.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(missing.status().message()),
              testing::HasSubstr("/nonexistent/tokenizer.model"));
  for (const std::string& bad : {std::string(), std::string("not a model"),
                                 std::string(4096, '\xFF'), std::string(64, '\0')}) {
    const ModelDirectory directory(bad);
    const auto tokenizer = LoadTokenizer(directory.path());
    EXPECT_EQ(tokenizer.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(tokenizer.status().message()), testing::HasSubstr(directory.path()));
  }
}

TEST(Tokenizer, SurvivesDamagedModels) {
  const std::string good = ReadAll(TestData() + "/tiny-mixtral/tokenizer.model");
  int loaded = 0;
  int refused = 0;
  for (uint32_t seed = 0; seed < 300; ++seed) {
    std::mt19937 random(seed);
    std::string bad = good;
    for (uint32_t i = 0; i <= random() % 4; ++i) {
      // Half of the damage goes to the settings at the end.
      const size_t at = seed % 2 ? random() % bad.size() : bad.size() - 1 - random() % 90;
      if (random() % 2) {
        bad[at] = static_cast<char>(random());
      } else {
        bad.erase(at, 1 + random() % 3);
      }
    }
    const ModelDirectory directory(bad);
    const auto tokenizer = LoadTokenizer(directory.path());
    if (tokenizer.ok()) {
      ++loaded;
      (*tokenizer)->Decode((*tokenizer)->Encode("In the beginning \xE2\x82\xAC \xFF"));
    } else {
      ++refused;
      EXPECT_EQ(tokenizer.status().code(), absl::StatusCode::kInvalidArgument);
    }
  }
  EXPECT_GT(loaded, 0);
  EXPECT_GT(refused, 0);
}

// A ModelProto that holds only a NormalizerSpec with this precompiled_charsmap.
std::string ModelWithCharsMap(const std::string& table) {
  const auto length = [](size_t n) {
    return std::string{static_cast<char>((n & 0x7F) | 0x80), static_cast<char>(n >> 7)};
  };
  const std::string spec = "\x12" + length(table.size()) + table;
  return "\x1A" + length(spec.size()) + spec;
}

// A double array of 256 units whose root leads by 'a' to a leaf with `value`, then texts.
std::string CharsMap(uint32_t root, uint32_t child, uint32_t value) {
  std::vector<uint32_t> units(256, 0x80000000u);
  units[0] = root;
  units[0x60] = child;  // 'a' is 0x61: the root's base is 1, and 1 ^ 0x61 = 0x60
  units[0x62] = 0x80000000u | value;
  std::string table = {0, 4, 0, 0};
  for (uint32_t unit : units) {
    for (int i = 0; i < 4; ++i) table += static_cast<char>(unit >> (8 * i));
  }
  return table + std::string("b\0", 2);
}

TEST(SentencePieceModel, RefusesATableThatLeadsOutOfItself) {
  const uint32_t root = 1u << 10;                         // base 0 ^ 1
  const uint32_t child = 2u << 10 | 0x100 | 'a';          // base 0x60 ^ 2, with a leaf there
  const uint32_t far_child = 0x100u << 10 | 0x100 | 'a';  // base 0x160, beyond 256 units
  EXPECT_TRUE(ReadSentencePieceModel(ModelWithCharsMap(CharsMap(root, child, 1)), "m").ok());
  for (const std::string& bad :
       {CharsMap(root, child, 2), CharsMap(root, far_child, 1), CharsMap(0x400u << 10, child, 1),
        CharsMap(root, child, 1).substr(0, 900), std::string("\x10\0\0\0", 4), std::string("x")}) {
    EXPECT_EQ(ReadSentencePieceModel(ModelWithCharsMap(bad), "m").status().code(),
              absl::StatusCode::kInvalidArgument);
  }
}

TEST(SentencePieceModel, ReadsTheSettings) {
  const auto settings =
      ReadSentencePieceModel(ReadAll(TestData() + "/tiny-mixtral/tokenizer.model"), "m");
  ASSERT_TRUE(settings.ok()) << settings.status();
  EXPECT_TRUE(settings->add_dummy_prefix);
  EXPECT_FALSE(settings->remove_extra_whitespaces);
}

}  // namespace
}  // namespace intermix
