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

// Probability of a token up to the common factor; 1 for the most likely one. Sums are in double.
double Weight(float logit, float max, float temperature) {
  return static_cast<double>(LaneExp((logit - max) / temperature));
}

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
  if (keeps_all) return SampleAll(logits, max, params.temperature, draw);
  return SampleFiltered(logits, max, params, draw);
}

// Walks the vocabulary by ascending id: nothing needs sorting.
int32_t Sampler::SampleAll(std::span<const float> logits, float max, float temperature,
                           double draw) {
  weights_.clear();
  double total = 0.0;
  for (float logit : logits) {
    weights_.push_back(Weight(logit, max, temperature));
    total += weights_.back();
  }
  double sum = 0.0;
  for (size_t id = 0; id < weights_.size(); ++id) {
    sum += weights_[id];
    if (sum > draw * total) return static_cast<int32_t>(id);
  }
  Fatal("the weights' two sums differ");  // the same additions in the same order
}

int32_t Sampler::SampleFiltered(std::span<const float> logits, float max,
                                const SamplingParams& params, double draw) {
  candidates_.clear();
  num_sorted_ = 0;
  for (size_t id = 0; id < logits.size(); ++id) {
    candidates_.push_back({logits[id], static_cast<int32_t>(id)});
  }
  const auto top_k = static_cast<size_t>(params.top_k);
  if (top_k > 0 && top_k < logits.size()) {
    return DrawFiltered(top_k, std::nullopt, max, params, draw);
  }
  double total = 0.0;
  for (float logit : logits) total += Weight(logit, max, params.temperature);
  return DrawFiltered(logits.size(), total, max, params, draw);
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
  for (size_t i = 0; i < top_k; ++i) candidates_.push_back({logits[i], ids[i]});
  num_sorted_ = top_k;
  return DrawFiltered(top_k, std::nullopt, logits[0], params,
                      Uniform(params.seed, state, Purpose::kSampleToken));
}

double Sampler::WeightOf(size_t candidate, float max, const SamplingParams& params) {
  SortUpTo(candidate + 1);
  return Weight(candidates_[candidate].logit, max, params.temperature);
}

// Walks candidates from the most likely one down. Keeps the first `kept`, then of those the fewest
// whose share of the total weight reaches top_p, then those of them with at least min_p of the
// likeliest one's weight, which is 1; then draws among the kept ones.
//   total  the weight of the `kept`; none: their sum in this order
int32_t Sampler::DrawFiltered(size_t kept, std::optional<double> total, float max,
                              const SamplingParams& params, double draw) {
  if (!total.has_value()) {
    SortUpTo(kept);
    total = 0.0;
    for (size_t i = 0; i < kept; ++i) *total += WeightOf(i, max, params);
  }
  const double wanted = params.top_p < 1.0f ? *total * static_cast<double>(params.top_p)
                                            : std::numeric_limits<double>::infinity();
  double mass = 0.0;
  for (size_t i = 0; i < kept; ++i) {
    const double w = WeightOf(i, max, params);
    if (w < static_cast<double>(params.min_p)) {
      kept = i;
      break;
    }
    mass += w;
    // A zero weight ends it too: what follows can not be drawn.
    if (mass >= wanted || w == 0.0) kept = i + 1;
  }

  double sum = 0.0;
  for (size_t i = 0; i < kept; ++i) {
    sum += WeightOf(i, max, params);
    if (sum > draw * mass) return candidates_[i].id;
  }
  Fatal("the kept weights' two sums differ");  // the same additions in the same order
}

// Makes the first `count` candidates the right ones in the right order. Most draws look at a few
// only, so the sorted part grows by factors instead of sorting the whole vocabulary.
void Sampler::SortUpTo(size_t count) {
  if (count <= num_sorted_) return;
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
