// LogitAdjuster: what a request changes in a row of logits before a token is chosen from it. A pure
// function of the row, the parameters and the tokens so far: no counts are kept from step to step,
// so that a resumed request is no special case.
//
// An object only owns scratch memory; use one from one thread at a time.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "runtime/engine/sampling_params.h"

namespace intermix {

// Where an answer stands.
struct AnswerState {
  std::span<const int32_t> prompt;
  std::span<const int32_t> output;
  int32_t choice = 0;  // which of the request's answers it is
};

class LogitAdjuster {
 public:
  // Whether Adjust may change a row of an answer that has `num_output_tokens`.
  static bool Changes(const SamplingParams& params, size_t num_output_tokens);

  // The row as the request wants it; `logits` itself where it wants no change. Valid until the
  // next call.
  //   logits  [vocab_size] float32
  // In this order, as in vLLM: tokens that may not be chosen (not allowed, bad, or a stop before
  // min_tokens) become -infinity; logit_bias is added; repetition_penalty divides positive logits
  // of tokens that prompt or output hold and multiplies negative ones; frequency_penalty times a
  // token's count in the output, then presence_penalty, are subtracted.
  std::span<const float> Adjust(std::span<const float> logits, const SamplingParams& params,
                                const AnswerState& state);

 private:
  void Forbid(const SamplingParams& params, size_t num_output_tokens);
  void Penalise(const SamplingParams& params, const AnswerState& state);

  std::vector<float> row_;       // [vocab_size]
  std::vector<int32_t> counts_;  // [vocab_size] zeros between calls
};

}  // namespace intermix
