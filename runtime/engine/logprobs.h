// A row of logits as probabilities: what the model itself said, before any of a request's
// adjustments. Pure functions; any thread.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/engine/token_weights.h"

namespace intermix {

struct TokenLogprob {
  int32_t token_id = 0;
  float logprob = 0.0f;  // natural logarithm of its probability

  friend bool operator==(const TokenLogprob&, const TokenLogprob&) = default;
};

// How likely a token was, and what else was likely there.
struct TokenLogprobs {
  float logprob = 0.0f;           // of the token itself
  std::vector<TokenLogprob> top;  // the likeliest ones, descending; equal ones by ascending id

  friend bool operator==(const TokenLogprobs&, const TokenLogprobs&) = default;
};

// INTERNAL where the first element of a row (as Backend::TopK orders them) says that no token can
// be chosen: it is a NaN or infinite.
absl::Status CheckLikeliest(float logit, int64_t id);

// The id of the largest logit, the lowest of equal ones.
//   logits  [vocab_size] float32
//   INTERNAL: the row holds a NaN, a +infinity, or nothing finite.
absl::StatusOr<int32_t> LikeliestToken(std::span<const float> logits);

// Of `token`, and of the `num_top` likeliest tokens. One fixed order of additions, so that a
// row always gives the same bits. INTERNAL as LikeliestToken.
//   weights  scratch
absl::StatusOr<TokenLogprobs> Logprobs(std::span<const float> logits, int32_t token,
                                       int32_t num_top, TokenWeights& weights);

}  // namespace intermix
