// SamplingParams: every limit is named.
#include "runtime/engine/sampling_params.h"

#include <limits>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace intermix {
namespace {

using ::testing::HasSubstr;

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
  for (float bad : {-0.01f, 1.001f, nan}) {
    EXPECT_THAT(message({.min_p = bad}), HasSubstr("min_p is"));
  }
  for (float bad : {0.0f, -1.0f, 101.0f, nan, infinity}) {
    EXPECT_THAT(message({.repetition_penalty = bad}), HasSubstr("repetition_penalty is"));
  }
  for (float bad : {-2.1f, 2.1f, nan}) {
    EXPECT_THAT(message({.presence_penalty = bad}), HasSubstr("presence_penalty is"));
    EXPECT_THAT(message({.frequency_penalty = bad}), HasSubstr("frequency_penalty is"));
  }
  for (float bad : {-101.0f, 101.0f, nan}) {
    EXPECT_THAT(message({.logit_bias = {{3, bad}}}), HasSubstr("logit_bias is"));
  }
  EXPECT_THAT(message({.logit_bias = {{100, 0.0f}}}), HasSubstr("logit_bias holds 100"));
  EXPECT_THAT(message({.allowed_token_ids = {1, 100}}), HasSubstr("allowed_token_ids holds 100"));
  EXPECT_THAT(message({.bad_token_ids = {-1}}), HasSubstr("bad_token_ids holds -1"));
  EXPECT_THAT(message({.bad_token_ids = std::vector<int32_t>(1000, 5)}), HasSubstr("1000 ids"));
  for (int32_t bad : {-1, 21}) {
    EXPECT_THAT(message({.logprobs = bad}), HasSubstr("logprobs is"));
    EXPECT_THAT(message({.prompt_logprobs = bad}), HasSubstr("prompt_logprobs is"));
  }
  EXPECT_THAT(message({.max_tokens = 5, .min_tokens = 6}), HasSubstr("min_tokens is 6"));
  EXPECT_THAT(message({.min_tokens = -1}), HasSubstr("min_tokens is -1"));
  EXPECT_THAT(message({.stop = {"a", ""}}), HasSubstr("stop holds a string of 0 bytes"));
  EXPECT_THAT(message({.stop = {std::string(257, 'a')}}), HasSubstr("a string of 257 bytes"));
  EXPECT_THAT(message({.stop = std::vector<std::string>(33, "a")}), HasSubstr("holds 33 strings"));
  EXPECT_THAT(message({.top_k = -1}), HasSubstr("top_k is -1"));
  EXPECT_THAT(message({.max_tokens = 0}), HasSubstr("max_tokens is 0"));
  EXPECT_THAT(message({.stop_token_ids = {5, 100}}), HasSubstr("stop_token_ids holds 100"));
  EXPECT_THAT(message({.stop_token_ids = {-1}}), HasSubstr("ids 0 to 99"));
}

TEST(SamplingParamsTest, RefusesWhatLeavesNoTokenToChoose) {
  const auto code = [](const SamplingParams& params) { return params.Validate(3).code(); };
  const absl::StatusCode refused = absl::StatusCode::kInvalidArgument;
  EXPECT_EQ(code({.bad_token_ids = {0, 1, 2}}), refused);
  EXPECT_EQ(code({.allowed_token_ids = {1}, .bad_token_ids = {1}}), refused);
  EXPECT_EQ(code({.allowed_token_ids = {1}, .min_tokens = 1, .stop_token_ids = {1}}), refused);
  EXPECT_TRUE(SamplingParams({.allowed_token_ids = {1}, .stop_token_ids = {1}}).Validate(3).ok());
  EXPECT_TRUE(SamplingParams({.allowed_token_ids = {1}, .bad_token_ids = {2}}).Validate(3).ok());
}

}  // namespace
}  // namespace intermix
