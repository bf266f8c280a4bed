#include "runtime/engine/sampling_params.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"

namespace intermix {
namespace {

template <typename T>
absl::Status CheckRange(const char* field, T value, T low, T high) {
  if (value >= low && value <= high) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(field, " is ", value, "; it must be in [", low, ", ", high, "]"));
}

absl::Status CheckId(const char* field, int32_t id, int32_t vocab_size) {
  if (id >= 0 && id < vocab_size) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(field, " holds ", id, "; the vocabulary has ids 0 to ", vocab_size - 1));
}

absl::Status CheckIds(const char* field, const std::vector<int32_t>& ids, int32_t vocab_size) {
  constexpr int64_t kMaxEos = 64;  // which the front adds to a client's list
  if (std::ssize(ids) > vocab_size + kMaxEos) {
    return absl::InvalidArgumentError(
        absl::StrCat(field, " holds ", ids.size(), " ids; the vocabulary has ", vocab_size));
  }
  for (int32_t id : ids) {
    if (absl::Status s = CheckId(field, id, vocab_size); !s.ok()) return s;
  }
  return absl::OkStatus();
}

absl::Status CheckDistribution(const SamplingParams& params) {
  if (!(params.temperature >= 0.0f) || std::isinf(params.temperature)) {
    return absl::InvalidArgumentError(absl::StrCat("temperature is ", params.temperature,
                                                   "; it must be 0 (greedy) or a positive number"));
  }
  if (params.top_k < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("top_k is ", params.top_k, "; it must be 0 (all tokens) or positive"));
  }
  if (!(params.top_p > 0.0f && params.top_p <= 1.0f)) {
    return absl::InvalidArgumentError(
        absl::StrCat("top_p is ", params.top_p, "; it must be in (0, 1]"));
  }
  absl::Status status = CheckRange("min_p", params.min_p, 0.0f, 1.0f);
  status.Update(CheckRange("repetition_penalty", params.repetition_penalty, 0.01f, 100.0f));
  status.Update(CheckRange("presence_penalty", params.presence_penalty, -2.0f, 2.0f));
  status.Update(CheckRange("frequency_penalty", params.frequency_penalty, -2.0f, 2.0f));
  return status;
}

absl::Status CheckStops(const std::vector<std::string>& stops) {
  if (stops.size() > SamplingParams::kMaxStops) {
    return absl::InvalidArgumentError(absl::StrCat(
        "stop holds ", stops.size(), " strings; it may hold at most ", SamplingParams::kMaxStops));
  }
  for (const std::string& stop : stops) {
    if (stop.empty() || stop.size() > SamplingParams::kMaxStopBytes) {
      return absl::InvalidArgumentError(absl::StrCat("stop holds a string of ", stop.size(),
                                                     " bytes; each must have 1 to ",
                                                     SamplingParams::kMaxStopBytes));
    }
  }
  return absl::OkStatus();
}

// Ids are in the vocabulary by now.
absl::Status CheckSomethingIsLeft(const SamplingParams& params, int32_t vocab_size) {
  std::vector<bool> left(vocab_size, params.allowed_token_ids.empty());
  for (int32_t id : params.allowed_token_ids) left[id] = true;
  for (int32_t id : params.bad_token_ids) left[id] = false;
  if (params.min_tokens > 0) {
    for (int32_t id : params.stop_token_ids) left[id] = false;
  }
  if (std::find(left.begin(), left.end(), true) != left.end()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      "allowed_token_ids, bad_token_ids and (before min_tokens) the stop tokens leave no token to "
      "choose");
}

}  // namespace

absl::Status SamplingParams::Validate(int32_t vocab_size) const {
  if (absl::Status s = CheckDistribution(*this); !s.ok()) return s;
  if (max_tokens < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("max_tokens is ", max_tokens, "; it must be at least 1"));
  }
  if (absl::Status s = CheckRange("min_tokens", min_tokens, 0, max_tokens); !s.ok()) return s;
  for (const auto& [field, count] : {std::pair("logprobs", logprobs.value_or(0)),
                                     std::pair("prompt_logprobs", prompt_logprobs.value_or(0))}) {
    if (absl::Status s = CheckRange(field, count, 0, std::min(kMaxLogprobs, vocab_size)); !s.ok()) {
      return s;
    }
  }
  for (const auto& [id, bias] : logit_bias) {
    if (absl::Status s = CheckId("logit_bias", id, vocab_size); !s.ok()) return s;
    if (absl::Status s = CheckRange("logit_bias", bias, -100.0f, 100.0f); !s.ok()) return s;
  }
  absl::Status status = CheckIds("allowed_token_ids", allowed_token_ids, vocab_size);
  status.Update(CheckIds("bad_token_ids", bad_token_ids, vocab_size));
  status.Update(CheckIds("stop_token_ids", stop_token_ids, vocab_size));
  status.Update(CheckStops(stop));
  if (!status.ok()) return status;
  return CheckSomethingIsLeft(*this, vocab_size);
}

}  // namespace intermix
