// Sampler: one row of logits to one token id. The choice is a pure function of the row, the
// parameters and the tokens so far (numerics.md, "Invariance", rule 6): no state, every sum in a
// fixed order, ties to the lowest id, so that neither batch nor preemption nor restart changes a
// token.
//
// An object only owns scratch memory; use one from one thread at a time.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/engine/logit_adjuster.h"
#include "runtime/engine/sampling_params.h"
#include "runtime/engine/token_weights.h"

namespace intermix {

class Sampler {
 public:
  // The next token of an answer.
  //   logits  [vocab_size] float32; -infinity is a token that can not be chosen
  // Order: what LogitAdjuster changes, then temperature, then top_k, then top_p of what top_k left,
  // then min_p, as in Hugging Face transformers. Random numbers depend on the seed, the index in
  // the output and the choice.
  //   INTERNAL: the row holds a NaN, a +infinity, or nothing finite that may be chosen.
  absl::StatusOr<int32_t> Sample(std::span<const float> logits, const SamplingParams& params,
                                 const AnswerState& state);

  // How many of the likeliest tokens SampleLikeliest must know of to choose as Sample does; 0: the
  // whole row is needed. Less than vocab_size, at most kMaxTopK.
  static int32_t LikeliestNeeded(const SamplingParams& params, const AnswerState& state,
                                 int32_t vocab_size);
  // Sample, from the first elements of a row, as Backend::TopK orders them.
  //   logits, ids  at least as many as are needed (not 0)
  absl::StatusOr<int32_t> SampleLikeliest(std::span<const float> logits,
                                          std::span<const int32_t> ids,
                                          const SamplingParams& params, const AnswerState& state);

 private:
  struct Candidate {
    float logit;
    int32_t id;
    float weight;
  };

  int32_t SampleFiltered(std::span<const float> logits, float max, const SamplingParams& params,
                         double draw);
  void SetTiers(std::span<const float> logits, float max, float temperature);
  void AddTier();
  bool Sorted(size_t count);
  void SortUpTo(size_t count);
  int32_t DrawFiltered(size_t kept, std::optional<double> total, const SamplingParams& params,
                       double draw);

  LogitAdjuster adjuster_;
  TokenWeights weights_;
  std::vector<Candidate> candidates_;  // the first num_sorted_ are sorted: logit descending, id
  size_t num_sorted_ = 0;              // ascending; none of the others comes before them
  // Candidates come tier after tier: of row_, the tokens with logits above bounds_[tier + 1] and up
  // to bounds_[tier].
  static constexpr size_t kTiers = 3;
  std::span<const float> row_;
  std::array<float, kTiers + 1> bounds_ = {};
  size_t tier_ = 0;  // the next
  size_t num_tiers_ = 0;
};

}  // namespace intermix
