// Batch: everything the ranks must agree on in one step. Rank 0's scheduler builds it and
// broadcasts it, so ranks cannot diverge; a recorded Batch replays in a test. A plain, serialisable
// value.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/statusor.h"

namespace intermix {

// Which of a chunk's rows need logits.
enum class LogitsWanted : int32_t { kNone, kLast, kAll };

// Consecutive tokens of one sequence: a whole prompt, a part of one, or one decoded token.
struct SequenceChunk {
  int32_t dp_rank = 0;  // the data-parallel group that holds the sequence's KV blocks
  int32_t start = 0;    // position of tokens[0]; positions before it are in the cache
  LogitsWanted logits = LogitsWanted::kNone;
  std::vector<int32_t> tokens;  // at least one
  std::vector<int32_t> blocks;  // the sequence's block table, long enough for the chunk's end

  // Positions [start, end()) are written by this chunk.
  int32_t end() const { return start + static_cast<int32_t>(tokens.size()); }
  int32_t num_logits_rows() const {
    if (logits == LogitsWanted::kAll) return static_cast<int32_t>(tokens.size());
    return logits == LogitsWanted::kLast ? 1 : 0;
  }

  friend bool operator==(const SequenceChunk&, const SequenceChunk&) = default;
};

struct Batch {
  int64_t step = 0;
  bool stop = false;  // the last one: ranks leave their loop
  // Of each wanted row the logits of so many of the likeliest tokens are enough, at most kMaxTopK
  // and the vocabulary; 0: all logits are needed.
  int32_t likeliest = 0;
  std::vector<SequenceChunk> chunks;

  int64_t num_tokens() const;
  int64_t num_logits_rows() const;

  // A flat form for Broadcast; Deserialize(Serialize()) is the same batch.
  std::vector<int32_t> Serialize() const;
  //   DATA_LOSS: the words are not a whole serialised batch.
  static absl::StatusOr<Batch> Deserialize(std::span<const int32_t> words);

  friend bool operator==(const Batch&, const Batch&) = default;
};

}  // namespace intermix
