// SamplingParams: how a request wants its tokens chosen, and when it wants to end. A plain value.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"

namespace intermix {

struct SamplingParams {
  static constexpr int32_t kMaxLogprobs = 20;
  static constexpr size_t kMaxStops = 32;
  static constexpr size_t kMaxStopBytes = 256;

  float temperature = 0.0f;  // 0: greedy
  int32_t top_k = 0;         // 0: all
  float top_p = 1.0f;        // (0, 1]
  float min_p = 0.0f;        // [0, 1]: of the likeliest token's probability
  // Change the logits first (logit_adjuster.h).
  float repetition_penalty = 1.0f;  // [0.01, 100]: tokens of prompt and output; 1: none
  float presence_penalty = 0.0f;    // [-2, 2]: tokens of the output; 0: none
  float frequency_penalty = 0.0f;   // [-2, 2]: for each time a token is in the output; 0: none
  std::vector<std::pair<int32_t, float>> logit_bias;  // token id, [-100, 100]
  std::vector<int32_t> allowed_token_ids;             // empty: all
  std::vector<int32_t> bad_token_ids;                 // never chosen, also where allowed

  uint64_t seed = 0;
  int32_t max_tokens = 128;  // of output; a sequence also ends where the model's context does
  int32_t min_tokens = 0;    // of output, before anything may stop it
  // For the front, which knows the model's EOS ids: it adds them to stop_token_ids unless this is
  // set. The engine looks at stop_token_ids alone.
  bool ignore_eos = false;
  std::vector<int32_t> stop_token_ids;
  std::vector<std::string> stop;  // for the front, which knows the text (answer_builder.h)

  // How many of the likeliest tokens to tell of besides each token itself, [0, kMaxLogprobs].
  std::optional<int32_t> logprobs;
  std::optional<int32_t> prompt_logprobs;

  // INVALID_ARGUMENT naming the field and the legal range (NaN is never legal).
  absl::Status Validate(int32_t vocab_size) const;
};

}  // namespace intermix
