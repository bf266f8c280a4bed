// RequestStream and SamplingParams: what passes between the engine and one reader.
#include <cmath>
#include <limits>
#include <thread>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "runtime/engine/request.h"

namespace intermix {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
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

TEST(SamplingParamsTest, NamesTheFieldThatIsOutOfRange) {
  constexpr int32_t kVocab = 100;
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float infinity = std::numeric_limits<float>::infinity();
  EXPECT_TRUE(SamplingParams().Validate(kVocab).ok());
  EXPECT_TRUE((SamplingParams{.temperature = 2.0f,
                              .top_k = 1000,
                              .top_p = 1e-9f,
                              .max_tokens = 1,
                              .stop_token_ids = {0, 99}})
                  .Validate(kVocab)
                  .ok());
  const auto message = [](const SamplingParams& params) {
    const absl::Status status = params.Validate(kVocab);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    return std::string(status.message());
  };
  for (float bad : {-0.5f, nan, infinity}) {
    EXPECT_THAT(message({.temperature = bad}), HasSubstr("temperature"));
  }
  for (float bad : {0.0f, -1.0f, 1.001f, nan}) {
    EXPECT_THAT(message({.top_p = bad}), HasSubstr("top_p"));
  }
  EXPECT_THAT(message({.top_k = -1}), HasSubstr("top_k is -1"));
  EXPECT_THAT(message({.max_tokens = 0}), HasSubstr("max_tokens is 0"));
  EXPECT_THAT(message({.stop_token_ids = {5, 100}}), HasSubstr("stop_token_ids holds 100"));
  EXPECT_THAT(message({.stop_token_ids = {-1}}), HasSubstr("ids 0 to 99"));
}

}  // namespace
}  // namespace intermix
