#include "runtime/engine/sampler.h"

#include <algorithm>
#include <limits>

#include "kernels/core/check.h"
#include "kernels/core/lane_math.h"
#include "kernels/operands.h"
#include "runtime/engine/logprobs.h"
#include "runtime/engine/philox.h"

namespace intermix {
namespace {

// What a random number is for: the second word of the counter.
enum class Purpose : uint32_t { kSampleToken = 0 };

// Uniform in [0, 1), a multiple of 2^-52; so draw * x < x for every positive normal x.
double Uniform(uint64_t seed, const AnswerState& state, Purpose purpose) {
  const PhiloxCounter words =
      Philox4x32({static_cast<uint32_t>(state.output.size()), static_cast<uint32_t>(purpose),
                  static_cast<uint32_t>(state.choice), 0},
                 {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)});
  const uint64_t bits = (static_cast<uint64_t>(words[0]) << 20) | (words[1] >> 12);
  return static_cast<double>(bits) * 0x1p-52;
}

// No token beyond the first tier has more than this weight, a little above e^-8.
constexpr float kUnlikelyWeight = 3.4e-4f;

}  // namespace

absl::StatusOr<int32_t> Sampler::Sample(std::span<const float> row, const SamplingParams& params,
                                        const AnswerState& state) {
  absl::StatusOr<int32_t> best = LikeliestToken(row);
  if (!best.ok()) return best;
  const std::span<const float> logits = adjuster_.Adjust(row, params, state);
  if (logits.data() != row.data()) best = LikeliestToken(logits);
  if (!best.ok() || params.temperature == 0.0f || params.top_k == 1) return best;
  const float max = logits[*best];
  const double draw = Uniform(params.seed, state, Purpose::kSampleToken);
  const bool keeps_all =
      (params.top_k == 0 || params.top_k >= static_cast<int64_t>(logits.size())) &&
      params.top_p >= 1.0f && params.min_p <= 0.0f;
  weights_.Set(logits, max, params.temperature);
  // By ascending id: nothing needs sorting.
  if (keeps_all) return weights_.TokenAt(draw * weights_.total());
  return SampleFiltered(logits, max, params, draw);
}

int32_t Sampler::SampleFiltered(std::span<const float> logits, float max,
                                const SamplingParams& params, double draw) {
  candidates_.clear();
  num_sorted_ = 0;
  SetTiers(logits, max, params.temperature);
  const auto top_k = static_cast<size_t>(params.top_k);
  if (top_k > 0 && top_k < logits.size()) return DrawFiltered(top_k, std::nullopt, params, draw);
  return DrawFiltered(logits.size(), weights_.total(), params, draw);
}

int32_t Sampler::LikeliestNeeded(const SamplingParams& params, const AnswerState& state,
                                 int32_t vocab_size) {
  if (LogitAdjuster::Changes(params, state.output.size())) return 0;
  const int32_t needed = params.temperature == 0.0f ? 1 : params.top_k;
  return needed <= kMaxTopK && needed < vocab_size ? needed : 0;
}

absl::StatusOr<int32_t> Sampler::SampleLikeliest(std::span<const float> logits,
                                                 std::span<const int32_t> ids,
                                                 const SamplingParams& params,
                                                 const AnswerState& state) {
  if (absl::Status s = CheckLikeliest(logits[0], ids[0]); !s.ok()) return s;
  if (params.temperature == 0.0f || params.top_k == 1) return ids[0];
  const auto top_k = static_cast<size_t>(params.top_k);
  CHECK(top_k > 0 && top_k <= ids.size()) << top_k << " of " << ids.size();
  candidates_.clear();
  num_tiers_ = 0;
  for (size_t i = 0; i < top_k; ++i) {
    const float weight = LaneExp((logits[i] - logits[0]) / params.temperature);
    candidates_.push_back({logits[i], ids[i], weight});
  }
  num_sorted_ = top_k;
  return DrawFiltered(top_k, std::nullopt, params,
                      Uniform(params.seed, state, Purpose::kSampleToken));
}

// Walks candidates from the most likely one down. Keeps the first `kept`, then of those the fewest
// whose share of the total weight reaches top_p, then those of them with at least min_p of the
// likeliest one's weight, which is 1; then draws among the kept ones.
//   total  the weight of the `kept`; none: their sum in this order
int32_t Sampler::DrawFiltered(size_t kept, std::optional<double> total,
                              const SamplingParams& params, double draw) {
  if (!total.has_value()) {
    total = 0.0;
    for (size_t i = 0; i < kept && Sorted(i + 1); ++i) *total += candidates_[i].weight;
  }
  const double wanted = params.top_p < 1.0f ? *total * static_cast<double>(params.top_p)
                                            : std::numeric_limits<double>::infinity();
  if (params.min_p > kUnlikelyWeight) num_tiers_ = std::min<size_t>(num_tiers_, 1);
  double mass = 0.0;
  size_t i = 0;
  for (; i < kept && mass < wanted && Sorted(i + 1); ++i) {
    const float weight = candidates_[i].weight;
    if (weight < params.min_p) break;
    mass += weight;
  }
  kept = i;

  double sum = 0.0;
  for (i = 0; i < kept; ++i) {
    sum += candidates_[i].weight;
    if (sum > draw * mass) return candidates_[i].id;
  }
  Fatal("the kept weights' two sums differ");  // the same additions in the same order
}

// Whether there are `count` candidates; the first of them are then the right ones in the right
// order.
bool Sampler::Sorted(size_t count) {
  if (count <= num_sorted_) return true;
  while (count > candidates_.size() && tier_ < num_tiers_) AddTier();
  if (count > candidates_.size()) return false;
  SortUpTo(count);
  return true;
}

// Few draws look beyond the first tier: the tokens within some 8 temperatures of the largest logit.
void Sampler::SetTiers(std::span<const float> logits, float max, float temperature) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  row_ = logits;
  tier_ = 0;
  num_tiers_ = kTiers;
  // Where rounding leaves no such number the first tier has all.
  const float first = max - 8.0f * temperature;
  const bool holds = (first - max) / temperature < -7.99f;
  bounds_ = {kInfinity, holds ? first : -kInfinity, max - 12.0f * temperature, -kInfinity};
}

// Those without a weight are left out: they cannot be drawn, nor can anything that follows them.
void Sampler::AddTier() {
  const float most = bounds_[tier_];
  const float above = bounds_[++tier_];
  const auto size = static_cast<int64_t>(row_.size());
  for (int64_t i = weights_.rows().NextAbove(row_, 0, above); i < size;
       i = weights_.rows().NextAbove(row_, i + 1, above)) {
    const auto id = static_cast<int32_t>(i);
    if (row_[i] > most || weights_[id] == 0.0f) continue;
    candidates_.push_back({row_[i], id, weights_[id]});
  }
}

// Most draws look at a few candidates only, so the sorted part grows by factors instead of sorting
// all of them.
void Sampler::SortUpTo(size_t count) {
  const size_t target =
      std::min(candidates_.size(), std::max({count, 8 * num_sorted_, size_t{64}}));
  const auto before = [](const Candidate& a, const Candidate& b) {
    return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
  };
  const auto begin = candidates_.begin() + static_cast<std::ptrdiff_t>(num_sorted_);
  const auto end = candidates_.begin() + static_cast<std::ptrdiff_t>(target);
  if (end != candidates_.end()) std::nth_element(begin, end, candidates_.end(), before);
  std::sort(begin, end, before);
  num_sorted_ = target;
}

}  // namespace intermix
