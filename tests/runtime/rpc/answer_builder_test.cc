// AnswerBuilder: stop strings and text of an answer, however its tokens come merged.
#include "runtime/rpc/answer_builder.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/test_paths.h"

namespace intermix {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

class AnswerBuilderTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto tokenizer = LoadTokenizer(TestData() + "/tiny-mixtral");
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    tokenizer_ = *std::move(tokenizer);
    request_.prompt = {1, 300};
    tokens_ = tokenizer_->Encode("and it came to pass, that he went");
  }

  // The whole answer to tokens_ in deltas of `size` tokens.
  AnswerPart Run(size_t size) {
    AnswerBuilder builder(*tokenizer_, request_);
    AnswerPart all;
    for (size_t at = 0; at < tokens_.size() && !all.delta.finished; at += size) {
      const size_t end = std::min(tokens_.size(), at + size);
      TokenDelta delta;
      for (size_t i = at; i < end; ++i) {
        delta.tokens.push_back(tokens_[i]);
        delta.logprobs.push_back({.logprob = -static_cast<float>(i)});
      }
      if (end == tokens_.size()) {
        delta.finished = true;
        delta.reason = FinishReason::kLength;
        delta.usage = {.prompt_tokens = 2, .completion_tokens = static_cast<int32_t>(end)};
      }
      AnswerPart part = builder.Take(std::move(delta));
      EXPECT_EQ(part.delta.logprobs.size(), part.delta.tokens.size());
      all.text += part.text;
      part.delta.tokens.insert(part.delta.tokens.begin(), all.delta.tokens.begin(),
                               all.delta.tokens.end());
      all.delta = std::move(part.delta);
    }
    return all;
  }

  std::unique_ptr<Tokenizer> tokenizer_;
  GenerateRequest request_;
  std::vector<int32_t> tokens_;
};

TEST_F(AnswerBuilderTest, AStopStringEndsTheAnswerWhereverTokensAreMerged) {
  request_.sampling.stop = {"never", "me to p"};
  const AnswerPart expected = Run(1);
  EXPECT_EQ(expected.text, " and it ca");
  EXPECT_EQ(expected.delta.stop, "me to p");
  EXPECT_EQ(expected.delta.reason, FinishReason::kStop);
  EXPECT_LT(expected.delta.tokens.size(), tokens_.size());
  EXPECT_EQ(expected.delta.usage.prompt_tokens, 2);
  EXPECT_EQ(expected.delta.usage.completion_tokens, expected.delta.tokens.size());
  for (size_t size = 2; size <= tokens_.size(); ++size) {
    const AnswerPart got = Run(size);
    EXPECT_EQ(got.text, expected.text);
    EXPECT_EQ(got.delta.tokens, expected.delta.tokens);
    EXPECT_EQ(got.delta.stop, expected.delta.stop);
  }
}

TEST_F(AnswerBuilderTest, MinTokensPutsStopStringsOff) {
  request_.sampling.stop = {"a"};
  EXPECT_EQ(Run(3).text, " ");
  request_.sampling.min_tokens = 4;
  const AnswerPart part = Run(3);
  EXPECT_GT(part.delta.tokens.size(), 4);
  EXPECT_EQ(part.delta.stop, "a");
  request_.sampling.min_tokens = static_cast<int32_t>(tokens_.size());
  EXPECT_EQ(Run(3).delta.reason, FinishReason::kLength);
}

TEST_F(AnswerBuilderTest, WhatWasHeldBackComesAtTheEnd) {
  request_.sampling.stop = {"went away"};
  const AnswerPart part = Run(2);
  EXPECT_EQ(part.text, " and it came to pass, that he went");
  EXPECT_EQ(part.delta.reason, FinishReason::kLength);
  EXPECT_FALSE(part.delta.stop.has_value());
}

TEST_F(AnswerBuilderTest, AFailureKeepsItsStatus) {
  AnswerBuilder builder(*tokenizer_, request_);
  const AnswerPart part =
      builder.Take({.tokens = {300}, .finished = true, .status = absl::CancelledError("gone")});
  EXPECT_THAT(part.delta.tokens, ElementsAre(300));
  EXPECT_EQ(part.delta.status.code(), absl::StatusCode::kCancelled);
  EXPECT_THAT(part.delta.logprobs, IsEmpty());
}

}  // namespace
}  // namespace intermix
