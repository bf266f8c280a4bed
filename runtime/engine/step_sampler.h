// StepSampler: a step's logits as tokens and log probabilities. What becomes of a row depends on it
// and its sequence alone, so threads share the rows where a step brought whole ones.
//
// Owns scratch memory and threads that sleep between steps; used from the engine's thread.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "kernels/core/thread_pool.h"
#include "runtime/engine/logprobs.h"
#include "runtime/engine/sampler.h"
#include "runtime/engine/scheduler.h"
#include "runtime/engine/step_logits.h"

namespace intermix {

// What one row of logits says.
struct SampledRow {
  absl::Status status;  // INTERNAL: the row is broken, and nothing else is said
  // How likely the next token of the prompt was, where its sequence wants to know and was not told
  // (before a preemption).
  std::optional<TokenLogprobs> prompt_logprobs;
  std::optional<int32_t> token;           // the sequence's next, of the row of its last token
  std::optional<TokenLogprobs> logprobs;  // of `token`, where its sequence wants them
};

class StepSampler {
 public:
  //   num_threads  at most so many; 0: as many as CPUs. More than a few bring nothing
  explicit StepSampler(int num_threads);

  // How many of the likeliest tokens of each row the plan's sequences can all be served from; 0:
  // one of them needs more.
  static int32_t LikeliestNeeded(const StepPlan& plan, int32_t vocab_size);

  // The rows in the order of the logits, valid until the next call.
  std::span<SampledRow> Sample(const StepPlan& plan, const StepLogits& logits);

 private:
  struct Scratch {
    Sampler sampler;
    TokenWeights weights;
  };
  struct Row {
    const Sequence* sequence;
    int32_t position;  // of the token whose successor the row is about
    bool of_prompt;    // prompt_logprobs are wanted
  };

  SampledRow SampleOne(const Row& row, const StepLogits& logits, Scratch& scratch) const;

  ThreadPool threads_;
  std::vector<Scratch> scratch_;  // of each thread
  std::vector<Row> rows_;
  std::vector<SampledRow> sampled_;
};

}  // namespace intermix
