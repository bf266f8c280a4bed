// Streaming must give the same text as decoding at once, and never a part of a character.
#include "runtime/tokenizer/detokenizer.h"

#include <random>
#include <vector>

#include "gtest/gtest.h"
#include "runtime/tokenizer/utf8.h"
#include "tests/testing/test_paths.h"

namespace intermix {
namespace {

class DetokenizerTest : public testing::Test {
 protected:
  DetokenizerTest() : tokenizer_(*LoadTokenizer(TestData() + "/tiny-mixtral")) {}

  // Streams `tokens` after `context`; every delta must be valid UTF-8 by itself.
  std::string Stream(const std::vector<int32_t>& tokens, const std::vector<int32_t>& context = {}) {
    Detokenizer detokenizer(*tokenizer_, context);
    std::string text;
    for (int32_t token : tokens) {
      const std::string delta = detokenizer.Add(token);
      EXPECT_TRUE(IsValidUtf8(delta));
      text += delta;
    }
    text += detokenizer.Flush();
    EXPECT_EQ(detokenizer.Flush(), "");
    return text;
  }

  int32_t ByteToken(uint8_t byte) const { return 3 + byte; }  // after <unk>, <s>, </s>

  std::unique_ptr<Tokenizer> tokenizer_;
};

TEST_F(DetokenizerTest, StreamsWhatDecodeGives) {
  for (const std::string text : {"", "And it came to pass", "  leading", " ", "a\nb",
                                 "caf\u00e9 \u65e5\u672c \U0001F600!"}) {
    EXPECT_EQ(Stream(tokenizer_->Encode(text)), text);
  }
}

TEST_F(DetokenizerTest, StreamsWhatDecodeGivesForAnyTokens) {
  for (uint32_t seed = 0; seed < 2000; ++seed) {
    std::mt19937 random(seed);
    std::vector<int32_t> tokens(random() % 12);
    for (int32_t& token : tokens) {
      // Bytes and special tokens, which random ids would seldom be; also ids that do not exist.
      token = static_cast<int32_t>(random() % 3 == 0 ? random() % 2060 : random() % 260);
      if (random() % 8 == 0) token = tokenizer_->Encode(" ").back();
    }
    EXPECT_EQ(Stream(tokens), ValidUtf8(tokenizer_->Decode(tokens))) << "seed " << seed;
    const size_t cut = tokens.empty() ? 0 : random() % tokens.size();
    const std::vector<int32_t> context(tokens.begin(), tokens.begin() + cut);
    const std::vector<int32_t> rest(tokens.begin() + cut, tokens.end());
    const std::string before = tokenizer_->Decode(context);
    if (!IsValidUtf8(before)) continue;
    EXPECT_EQ(before + Stream(rest, context), ValidUtf8(tokenizer_->Decode(tokens)))
        << "seed " << seed;
  }
}

TEST_F(DetokenizerTest, HoldsACharacterBackUntilItIsWhole) {
  Detokenizer detokenizer(*tokenizer_);
  EXPECT_EQ(detokenizer.Add(ByteToken(0xE2)), "");
  EXPECT_EQ(detokenizer.Add(ByteToken(0x82)), "");
  EXPECT_EQ(detokenizer.Add(ByteToken(0xAC)), "\u20AC");
  EXPECT_EQ(detokenizer.Flush(), "");
}

TEST_F(DetokenizerTest, EndsAnIncompleteCharacterWithOneReplacement) {
  EXPECT_EQ(Stream({ByteToken(0xE2), ByteToken(0x82)}), "\uFFFD");
  EXPECT_EQ(Stream({ByteToken(0xE2), ByteToken('x')}), "\uFFFDx");
  EXPECT_EQ(Stream({ByteToken(0xFF), ByteToken(0xFE)}), "\uFFFD\uFFFD");
}

TEST_F(DetokenizerTest, KeepsTheSpaceThatFollowsThePrompt) {
  const std::vector<int32_t> word = tokenizer_->Encode("people");  // its first piece has a space
  EXPECT_EQ(Stream(word), "people");
  EXPECT_EQ(Stream(word, tokenizer_->Encode("And the")), " people");
  EXPECT_EQ(Stream(word, {tokenizer_->bos_token_id()}), "people");
}

TEST_F(DetokenizerTest, ControlTokensShowNothing) {
  std::vector<int32_t> tokens = {1, 1};
  for (int32_t id : tokenizer_->Encode("people")) tokens.push_back(id);
  tokens.push_back(2);
  EXPECT_EQ(Stream(tokens), "people");
}

}  // namespace
}  // namespace intermix
