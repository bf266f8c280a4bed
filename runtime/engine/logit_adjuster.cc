#include "runtime/engine/logit_adjuster.h"

#include <algorithm>
#include <limits>

namespace intermix {
namespace {

constexpr float kForbidden = -std::numeric_limits<float>::infinity();

bool Penalises(const SamplingParams& params) {
  return params.repetition_penalty != 1.0f || params.presence_penalty != 0.0f ||
         params.frequency_penalty != 0.0f;
}

bool ForbidsStops(const SamplingParams& params, size_t num_output_tokens) {
  return !params.stop_token_ids.empty() &&
         num_output_tokens < static_cast<size_t>(params.min_tokens);
}

}  // namespace

bool LogitAdjuster::Changes(const SamplingParams& params, size_t num_output_tokens) {
  return Penalises(params) || ForbidsStops(params, num_output_tokens) ||
         !params.logit_bias.empty() || !params.allowed_token_ids.empty() ||
         !params.bad_token_ids.empty();
}

std::span<const float> LogitAdjuster::Adjust(std::span<const float> logits,
                                             const SamplingParams& params,
                                             const AnswerState& state) {
  if (!Changes(params, state.output.size())) return logits;
  if (params.allowed_token_ids.empty()) {
    row_.assign(logits.begin(), logits.end());
  } else {
    row_.assign(logits.size(), kForbidden);
    for (int32_t id : params.allowed_token_ids) row_[id] = logits[id];
  }
  Forbid(params, state.output.size());
  for (const auto& [id, bias] : params.logit_bias) row_[id] += bias;
  if (Penalises(params)) Penalise(params, state);
  return row_;
}

void LogitAdjuster::Forbid(const SamplingParams& params, size_t num_output_tokens) {
  for (int32_t id : params.bad_token_ids) row_[id] = kForbidden;
  if (!ForbidsStops(params, num_output_tokens)) return;
  for (int32_t id : params.stop_token_ids) row_[id] = kForbidden;
}

void LogitAdjuster::Penalise(const SamplingParams& params, const AnswerState& state) {
  counts_.resize(row_.size(), 0);
  // A token's first turn is the one that finds its count.
  const auto repeat = [&](int32_t id) {
    float& logit = row_[id];
    logit = logit > 0.0f ? logit / params.repetition_penalty : logit * params.repetition_penalty;
  };
  for (int32_t id : state.output) ++counts_[id];
  for (int32_t id : state.output) {
    if (counts_[id] <= 0) continue;
    repeat(id);
    row_[id] -= params.frequency_penalty * static_cast<float>(counts_[id]);
    row_[id] -= params.presence_penalty;
    counts_[id] = -1;  // done
  }
  for (int32_t id : state.prompt) {
    if (counts_[id] == 0) repeat(id);
    counts_[id] = -1;
  }
  for (int32_t id : state.output) counts_[id] = 0;
  for (int32_t id : state.prompt) counts_[id] = 0;
}

}  // namespace intermix
