#include "runtime/engine/logprobs.h"

#include <algorithm>
#include <cmath>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/core/check.h"
#include "kernels/core/lane_math.h"

namespace intermix {
namespace {

// The ids of the `count` largest logits. Keeps a short sorted list: most ids fail its first test.
std::vector<int32_t> Largest(std::span<const float> logits, size_t count) {
  std::vector<int32_t> best;
  const auto larger = [&](int32_t a, int32_t b) { return logits[a] > logits[b]; };
  for (int32_t id = 0; id < std::ssize(logits) && count > 0; ++id) {
    if (best.size() == count) {
      if (!larger(id, best.back())) continue;
      best.pop_back();
    }
    best.insert(std::upper_bound(best.begin(), best.end(), id, larger), id);
  }
  return best;
}

}  // namespace

absl::StatusOr<int32_t> LikeliestToken(std::span<const float> logits) {
  CHECK(!logits.empty());
  int32_t best = 0;
  for (int32_t id = 0; id < std::ssize(logits); ++id) {
    if (std::isnan(logits[id])) {
      return absl::InternalError(absl::StrCat("the model produced NaN logits (first at token id ",
                                              id, "); only this request is affected"));
    }
    if (logits[id] > logits[best]) best = id;
  }
  if (std::isinf(logits[best])) {
    return absl::InternalError(absl::StrCat("the model produced infinite logits (", logits[best],
                                            " at token id ", best,
                                            "); only this request is affected"));
  }
  return best;
}

absl::StatusOr<TokenLogprobs> Logprobs(std::span<const float> logits, int32_t token,
                                       int32_t num_top) {
  const absl::StatusOr<int32_t> likeliest = LikeliestToken(logits);
  if (!likeliest.ok()) return likeliest.status();
  const float max = logits[*likeliest];
  double total = 0.0;
  for (float logit : logits) total += static_cast<double>(LaneExp(logit - max));
  const double log_total = std::log(total);
  const auto logprob = [&](int32_t id) {
    return static_cast<float>(static_cast<double>(logits[id]) - static_cast<double>(max) -
                              log_total);
  };
  TokenLogprobs result{.logprob = logprob(token)};
  for (int32_t id : Largest(logits, static_cast<size_t>(num_top))) {
    result.top.push_back({.token_id = id, .logprob = logprob(id)});
  }
  return result;
}

}  // namespace intermix
