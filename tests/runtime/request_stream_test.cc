// RequestStream: what passes between the engine and one reader.
#include <thread>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "runtime/engine/request.h"

namespace intermix {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST(RequestStreamTest, MergesWhatWasPushedSinceTheLastCall) {
  RequestStream stream;
  stream.Push(3);
  stream.Push(1);
  TokenDelta delta = stream.Next();
  EXPECT_THAT(delta.tokens, ElementsAre(3, 1));
  EXPECT_FALSE(delta.finished);
  stream.Push(4);
  stream.Finish({.tokens = {1, 5}, .reason = FinishReason::kLength, .usage = {2, 5}});
  delta = stream.Next();
  EXPECT_THAT(delta.tokens, ElementsAre(4, 1, 5));
  EXPECT_TRUE(delta.finished);
  EXPECT_EQ(delta.reason, FinishReason::kLength);
  EXPECT_EQ(delta.usage.completion_tokens, 5);
}

TEST(RequestStreamTest, CutsWhatIsTooMuchForOneMessage) {
  constexpr int kMost = static_cast<int>(RequestStream::kMaxMerged);
  RequestStream stream;
  stream.PushPrompt(std::vector<TokenLogprobs>(2 * kMost + 5));
  for (int i = 0; i < kMost + 3; ++i) stream.Push(i, TokenLogprobs{.logprob = -1.0f * i});
  stream.Finish({.reason = FinishReason::kLength});
  for (const int left : {kMost, 5}) {
    const TokenDelta prompt = stream.Next();
    EXPECT_EQ(prompt.prompt_logprobs.size(), kMost) << left;
    EXPECT_THAT(prompt.tokens, IsEmpty()) << left;
    EXPECT_FALSE(prompt.finished);
  }
  const TokenDelta first = stream.Next();
  EXPECT_EQ(first.prompt_logprobs.size(), 5);
  EXPECT_EQ(first.tokens.size(), kMost);
  EXPECT_EQ(first.tokens.back(), kMost - 1);
  EXPECT_EQ(first.logprobs.size(), kMost);
  EXPECT_FALSE(first.finished);
  const TokenDelta last = stream.Next();
  EXPECT_THAT(last.tokens, ElementsAre(kMost, kMost + 1, kMost + 2));
  ASSERT_EQ(last.logprobs.size(), 3);
  EXPECT_EQ(last.logprobs[0].logprob, -1.0f * kMost);
  EXPECT_TRUE(last.finished);
}

TEST(RequestStreamTest, KeepsLogprobsBesideTheirTokens) {
  RequestStream stream;
  stream.PushPrompt({{.logprob = -1.0f}, {.logprob = -2.0f}});
  EXPECT_FALSE(stream.Next(absl::InfinitePast()).empty()) << "they wake the reader";
  stream.PushPrompt({{.logprob = -3.0f}});
  stream.Push(3, TokenLogprobs{.logprob = -0.5f});
  stream.Push(4, TokenLogprobs{.logprob = -0.25f, .top = {{.token_id = 4, .logprob = -0.25f}}});
  stream.Finish({.reason = FinishReason::kLength});
  const TokenDelta delta = stream.Next();
  EXPECT_THAT(delta.tokens, ElementsAre(3, 4));
  ASSERT_EQ(delta.logprobs.size(), 2);
  EXPECT_EQ(delta.logprobs[1].top[0].token_id, 4);
  ASSERT_EQ(delta.prompt_logprobs.size(), 1);
  EXPECT_EQ(delta.prompt_logprobs[0].logprob, -3.0f);
  EXPECT_THAT(stream.Next().logprobs, IsEmpty());
}

TEST(RequestStreamTest, RepeatsTheEndWithoutTokens) {
  RequestStream stream;
  stream.Push(9);
  stream.Finish({.status = absl::CancelledError("gone")});
  EXPECT_THAT(stream.Next().tokens, ElementsAre(9));
  const TokenDelta again = stream.Next();
  EXPECT_TRUE(again.finished);
  EXPECT_THAT(again.tokens, IsEmpty());
  EXPECT_EQ(again.status.code(), absl::StatusCode::kCancelled);
}

TEST(RequestStreamTest, ReturnsEmptyWhenTheDeadlinePasses) {
  RequestStream stream;
  for (absl::Time deadline : {absl::InfinitePast(), absl::Now(), absl::UnixEpoch()}) {
    const TokenDelta delta = stream.Next(deadline);
    EXPECT_FALSE(delta.finished);
    EXPECT_THAT(delta.tokens, IsEmpty());
  }
}

TEST(RequestStreamTest, TellsAReaderThatDoesNotWait) {
  RequestStream stream;
  stream.Push(7);
  int calls = 0;
  stream.OnReady([&calls] { ++calls; });
  EXPECT_EQ(calls, 1) << "token 7 was there already";
  EXPECT_THAT(stream.Next(absl::InfinitePast()).tokens, ElementsAre(7));
  stream.Push(8);
  stream.Finish({.reason = FinishReason::kLength});
  EXPECT_EQ(calls, 3);
}

TEST(RequestStreamTest, HandsEveryTokenToAReaderInAnotherThread) {
  constexpr int kTokens = 2000;
  RequestStream stream;
  std::thread engine([&] {
    for (int i = 0; i < kTokens && !stream.cancelled(); ++i) stream.Push(i);
    stream.Finish({.reason = FinishReason::kStop, .stop_token_id = 2});
  });
  std::vector<int32_t> tokens;
  TokenDelta delta;
  do {
    delta = stream.Next(absl::Now() + absl::Seconds(60));
    tokens.insert(tokens.end(), delta.tokens.begin(), delta.tokens.end());
  } while (!delta.finished && (!delta.tokens.empty()));
  engine.join();
  ASSERT_TRUE(delta.finished) << "the reader waited for a minute";
  ASSERT_EQ(tokens.size(), kTokens);
  for (int i = 0; i < kTokens; ++i) ASSERT_EQ(tokens[i], i);
  EXPECT_EQ(delta.stop_token_id, 2);
}

TEST(RequestStreamTest, CancelIsSeenByTheEngine) {
  RequestStream stream;
  EXPECT_FALSE(stream.cancelled());
  std::thread reader([&] { stream.Cancel(); });
  reader.join();
  EXPECT_TRUE(stream.cancelled());
}

}  // namespace
}  // namespace intermix
