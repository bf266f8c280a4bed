// Sequence: one live request as the engine sees it. Everything about it is derived from its tokens
// (prompt + output), never from how they came: one that was preempted, or that arrives with output
// already generated, is no special case.
//
// Owned by the Scheduler, read and extended by the engine thread only.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "runtime/engine/batch.h"
#include "runtime/engine/logit_adjuster.h"
#include "runtime/engine/request.h"
#include "runtime/kv/block_manager.h"

namespace intermix {

struct Sequence {
  int64_t arrival = 0;  // order of submission; unique
  // When it is due, in milliseconds of an arbitrary clock; lower goes first, then arrival: the time
  // of submission, less what its priority is worth. So waiting makes up for a lower priority.
  int64_t due_ms = 0;
  int32_t priority = 0;
  std::string cache_salt;
  SamplingParams sampling;
  absl::Time deadline = absl::InfiniteFuture();
  absl::Time submitted;
  absl::Time last_token = absl::InfinitePast();  // when it came
  bool started = false;                          // it was in a step
  std::shared_ptr<RequestStream> stream;
  int32_t choice = 0;        // which of its request's answers
  int64_t first_choice = 0;  // the arrival of the first of them

  std::vector<int32_t> tokens;  // prompt, then output
  int32_t num_prompt_tokens = 0;
  int32_t max_length = 0;           // prompt + output at which it ends with kLength
  int32_t num_prompt_logprobs = 0;  // delivered; of the tokens from the second one on

  int32_t dp_rank = 0;  // the group that holds its blocks; means nothing while it waits
  BlockTable kv;
  // What the next step runs of it if this step only adds a token, whose place is left open.
  std::optional<SequenceChunk> prepared;

  bool GoesBefore(const Sequence& other) const {
    return due_ms != other.due_ms ? due_ms < other.due_ms : arrival < other.arrival;
  }
  int32_t length() const { return static_cast<int32_t>(tokens.size()); }
  int32_t num_output_tokens() const { return length() - num_prompt_tokens; }
  // Logits of prompt positions are still to be turned into logprobs: all of a chunk are wanted.
  bool wants_prompt_logprobs() const {
    return sampling.prompt_logprobs.has_value() && num_prompt_logprobs + 1 < num_prompt_tokens;
  }
  AnswerState state() const {
    const std::span<const int32_t> all(tokens);
    const size_t prompt = static_cast<size_t>(num_prompt_tokens);
    return {.prompt = all.first(prompt), .output = all.subspan(prompt), .choice = choice};
  }
  // Tokens that the model has not seen. 1: the next step decodes; more: it prefills.
  int32_t num_pending() const { return length() - kv.num_cached; }
};

}  // namespace intermix
