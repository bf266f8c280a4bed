// Byte-level BPE: ids equal to those of the tokenizers package, and files that are refused.
#include <fstream>
#include <functional>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "runtime/tokenizer/byte_level.h"
#include "runtime/tokenizer/read_tokenizer.h"
#include "runtime/tokenizer/regex.h"
#include "tests/testing/test_paths.h"

namespace intermix {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

nlohmann::json ReadJson(const std::string& path) {
  std::ifstream file(TestData() + "/bpe/" + path);
  EXPECT_TRUE(file.is_open()) << path;
  return nlohmann::json::parse(file);
}

std::unique_ptr<Tokenizer> Load(const std::string& name) {
  auto tokenizer = LoadTokenizer(TestData() + "/bpe/" + name);
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return *std::move(tokenizer);
}

class GoldenTest : public ::testing::TestWithParam<const char*> {};

TEST_P(GoldenTest, GivesTheIdsOfTheLibraryAndTheTextBack) {
  const auto tokenizer = Load(GetParam());
  const nlohmann::json goldens = ReadJson("goldens.json")[GetParam()];
  EXPECT_GT(goldens.size(), 200);
  for (const nlohmann::json& golden : goldens) {
    const std::string text = golden["text"];
    const std::vector<int32_t> ids = tokenizer->Encode(text);
    EXPECT_EQ(ids, golden["ids"].get<std::vector<int32_t>>()) << golden["text"];
    EXPECT_EQ(tokenizer->Decode(ids), text);
  }
}

INSTANTIATE_TEST_SUITE_P(Settings, GoldenTest, ::testing::Values("gpt2", "llama3", "smollm2"),
                         [](const auto& instance) { return instance.param; });

TEST(ByteLevelTokenizerTest, OnlyTheTemplateSaysWhetherTextsBeginWithBos) {
  EXPECT_EQ(Load("llama3")->bos_token_id(), 0);
  EXPECT_TRUE(Load("llama3")->adds_bos_token());
  EXPECT_FALSE(Load("gpt2")->adds_bos_token());
  EXPECT_THAT(Load("llama3")->Decode(std::vector<int32_t>{0, 1}), IsEmpty()) << "special";
}

TEST(ByteLevelTokenizerTest, SpecialTokensInTextStayText) {
  const auto tokenizer = Load("smollm2");
  const std::string text = "<|im_start|>user";
  const std::vector<int32_t> ids = tokenizer->Encode(text);
  EXPECT_GT(ids.size(), 4);
  EXPECT_EQ(tokenizer->Decode(ids), text);
  const std::vector<int32_t> tool = tokenizer->Encode("a<|tool|><|tool|>b");
  EXPECT_EQ(tool.size(), 4) << "an added token that is not special is one id";
  EXPECT_EQ(tool[1], tool[2]);
}

TEST(ByteLevelTokenizerTest, InvalidBytesBecomeReplacementCharacters) {
  const auto tokenizer = Load("gpt2");
  EXPECT_EQ(tokenizer->Decode(tokenizer->Encode("a\xFFz")), "a\xEF\xBF\xBDz");
}

TEST(ByteLevelTokenizerTest, LongRunsTakeNoQuadraticTime) {
  const auto tokenizer = Load("llama3");
  for (const char* unit : {"a", " ", "1", "\n", "ab", "\xC3\xA9", " \n", "!"}) {
    std::string text;
    while (text.size() < 300000) text += unit;
    const std::vector<int32_t> ids = tokenizer->Encode(text);
    EXPECT_EQ(tokenizer->Decode(ids), text);
  }
}

TEST(ByteLevelTokenizerTest, RefusesFilesThatWorkInAnotherWay) {
  const nlohmann::json good = ReadJson("llama3/tokenizer.json");
  const auto refusal = [&](const std::function<void(nlohmann::json&)>& spoil) {
    nlohmann::json file = good;
    spoil(file);
    const absl::Status status = ReadByteLevelTokenizer(file.dump(), "FILE").status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    return std::string(status.message());
  };
  EXPECT_TRUE(ReadByteLevelTokenizer(good.dump(), "FILE").ok());
  EXPECT_THAT(refusal([](auto& f) { f = "text"; }), HasSubstr("FILE is not JSON"));
  EXPECT_THAT(refusal([](auto& f) { f["model"]["type"] = "Unigram"; }),
              HasSubstr("no byte-level BPE"));
  EXPECT_THAT(refusal([](auto& f) { f["model"]["byte_fallback"] = true; }),
              HasSubstr("tokenizer.model"));
  EXPECT_THAT(refusal([](auto& f) { f["normalizer"] = {{"type", "NFC"}}; }), HasSubstr("NFC"));
  EXPECT_THAT(refusal([](auto& f) { f["model"]["vocab"]["a"] = -4; }), HasSubstr("no legal id"));
  EXPECT_THAT(refusal([](auto& f) { f["model"]["vocab"] = 7; }), HasSubstr("no vocab"));
  EXPECT_THAT(refusal([](auto& f) { f["model"]["merges"].push_back("qq zz"); }),
              HasSubstr("merges 'qq' and 'zz'"));
  EXPECT_THAT(refusal([](auto& f) {
                f["pre_tokenizer"] = {{"type", "Metaspace"}};
              }),
              HasSubstr("not supported: Metaspace"));
  EXPECT_THAT(refusal([](auto& f) { f["pre_tokenizer"] = nullptr; }), HasSubstr("not supported"));
  EXPECT_THAT(
      refusal([](auto& f) { f["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = "(a"; }),
      HasSubstr("the pattern '(a' is wrong"));
  EXPECT_THAT(refusal([](auto& f) { f["added_tokens"][0]["id"] = "x"; }),
              HasSubstr("added token without id"));
}

TEST(RegexTest, FindsMatchesThatAreNotEmpty) {
  const auto regex = Regex::Compile("a*");
  ASSERT_TRUE(regex.ok());
  std::vector<std::pair<size_t, size_t>> matches;
  regex->ForEachMatch("baab a",
                      [&](size_t begin, size_t end) { matches.emplace_back(begin, end); });
  EXPECT_THAT(matches, ElementsAre(std::pair(1, 3), std::pair(5, 6)));
}

TEST(RegexTest, SpacesAreThoseOfUnicode) {
  const auto regex = Regex::Compile(R"(\s+|[^\s]+)");
  ASSERT_TRUE(regex.ok());
  const std::string text = "a\xC2\x85\xE3\x80\x80z\xE1\xA0\x8E";  // U+0085 U+3000, U+180E is none
  std::vector<size_t> ends;
  regex->ForEachMatch(text, [&](size_t, size_t end) { ends.push_back(end); });
  EXPECT_THAT(ends, ElementsAre(1, 6, 10));
  EXPECT_FALSE(Regex::Compile(R"([\S])").ok());
}

TEST(ByteLevelTest, SpellsEveryByteOnce) {
  EXPECT_EQ(BytesOfPiece("\u0120a"), " a");
  EXPECT_EQ(BytesOfPiece("\u010A"), "\n");
  EXPECT_EQ(BytesOfPiece("\u00C3\u0143"), "\xC3\xAD") << "the last one that is spelled anew";
  EXPECT_EQ(BytesOfPiece("a b"), std::nullopt) << "a space has its own character";
  EXPECT_EQ(BytesOfPiece("\u3042"), std::nullopt);
}

}  // namespace
}  // namespace intermix
