// A job of N ranks that steps given sequences under one way of batching, and everything it
// computed. Two runs of the same sequences must agree bit for bit, however they were batched and
// laid out.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "runtime/engine/model_runner.h"
#include "runtime/engine/rank.h"

namespace intermix {

// How the sequences ride.
struct Ride {
  int32_t chunk_tokens = 1 << 20;    // a prompt is prefilled in pieces of at most this
  bool together = true;              // all sequences in every step, or one sequence after the other
  bool decode_with_prefill = false;  // each sequence starts while those before it decode already
  int32_t block_stride = 1;          // blocks of a sequence are this far apart in the cache
  int32_t replay_from = 0;  // after this many output tokens the sequence is prefilled anew, as
                            // after a preemption; 0: never
  int32_t likeliest = 0;    // steps tell of so many of the likeliest tokens; 0: of all
};

// One sequence's results.
struct SequenceTrace {
  std::vector<int32_t> tokens;  // greedy output
  std::vector<float> logits;    // [tokens, vocab_size or likeliest]: what each was chosen from
  std::vector<int32_t> ids;     // [tokens, likeliest]

  friend bool operator==(const SequenceTrace&, const SequenceTrace&) = default;
};

// The same sequence where steps tell of `count` of the likeliest tokens only.
SequenceTrace LikeliestOf(const SequenceTrace& trace, int32_t count);

// Greedy continuation of each prompt by `num_tokens` tokens, stepping `runner` (rank 0).
std::vector<SequenceTrace> RunSequences(ModelRunner& runner,
                                        const std::vector<std::vector<int32_t>>& prompts,
                                        int num_tokens, const Ride& ride);

// The same on a fresh job of `world` ranks in this process. An unstartable job fails the test.
std::vector<SequenceTrace> RunJob(int world, const RankOptions& options,
                                  const std::vector<std::vector<int32_t>>& prompts, int num_tokens,
                                  const Ride& ride);

}  // namespace intermix
