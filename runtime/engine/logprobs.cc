#include "runtime/engine/logprobs.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/core/check.h"

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

constexpr size_t kBlock = 512;

struct BlockMax {
  float value = 0.0f;
  bool any_nan = false;
};

// Lane by lane, which compilers turn into vector instructions; the largest of some numbers does
// not depend on the order. NaNs are only noticed.
BlockMax MaxOf(std::span<const float> block) {
  constexpr size_t kLanes = 16;
  std::array<float, kLanes> max;
  std::array<uint32_t, kLanes> nan{};
  max.fill(-std::numeric_limits<float>::infinity());
  const size_t whole = block.size() / kLanes * kLanes;
  for (size_t i = 0; i < whole; i += kLanes) {
    for (size_t lane = 0; lane < kLanes; ++lane) {
      const float logit = block[i + lane];
      max[lane] = logit > max[lane] ? logit : max[lane];
      nan[lane] |= logit != logit ? 1u : 0u;
    }
  }
  for (size_t i = whole; i < block.size(); ++i) {
    max[0] = block[i] > max[0] ? block[i] : max[0];
    nan[0] |= std::isnan(block[i]) ? 1u : 0u;
  }
  return {.value = *std::max_element(max.begin(), max.end()),
          .any_nan = std::any_of(nan.begin(), nan.end(), [](uint32_t n) { return n != 0; })};
}

}  // namespace

absl::Status CheckLikeliest(float logit, int64_t id) {
  if (std::isnan(logit)) {
    return absl::InternalError(absl::StrCat("the model produced NaN logits (first at token id ", id,
                                            "); only this request is affected"));
  }
  if (std::isinf(logit)) {
    return absl::InternalError(absl::StrCat("the model produced infinite logits (", logit,
                                            " at token id ", id,
                                            "); only this request is affected"));
  }
  return absl::OkStatus();
}

absl::StatusOr<int32_t> LikeliestToken(std::span<const float> logits) {
  CHECK(!logits.empty());
  // Block by block, so that only the best one is searched for the place.
  float largest = -std::numeric_limits<float>::infinity();
  size_t best_block = 0;
  bool any_nan = false;
  for (size_t block = 0; block < logits.size(); block += kBlock) {
    const BlockMax max = MaxOf(logits.subspan(block, std::min(kBlock, logits.size() - block)));
    any_nan |= max.any_nan;
    if (max.value > largest) {
      largest = max.value;
      best_block = block;
    }
  }
  if (any_nan) {
    const auto nan = std::ranges::find_if(logits, [](float logit) { return std::isnan(logit); });
    return CheckLikeliest(*nan, nan - logits.begin());
  }
  const auto begin = logits.begin() + static_cast<std::ptrdiff_t>(best_block);
  const int32_t best =
      static_cast<int32_t>(std::find(begin, logits.end(), largest) - logits.begin());
  if (absl::Status s = CheckLikeliest(logits[best], best); !s.ok()) return s;
  return best;
}

absl::StatusOr<TokenLogprobs> Logprobs(std::span<const float> logits, int32_t token,
                                       int32_t num_top, TokenWeights& weights) {
  const absl::StatusOr<int32_t> likeliest = LikeliestToken(logits);
  if (!likeliest.ok()) return likeliest.status();
  const float max = logits[*likeliest];
  weights.Set(logits, max, 1.0f);
  const double log_total = std::log(weights.total());
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
