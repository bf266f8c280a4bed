// What a client asks of the engine and what comes back. Plain values, and the one thread-safe object
// between the front (gRPC, command line) and the engine: RequestStream.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace intermix {

struct SamplingParams {
  float temperature = 0.0f;  // 0: greedy
  int32_t top_k = 0;         // 0: all
  float top_p = 1.0f;        // (0, 1]
  uint64_t seed = 0;
  int32_t max_tokens = 128;  // of output
  bool ignore_eos = false;
  std::vector<int32_t> stop_token_ids;

  // INVALID_ARGUMENT naming the field and the legal range (NaN is never legal).
  absl::Status Validate(int32_t vocab_size) const;
};

struct GenerateRequest {
  std::string id;               // unique among live requests; for logs and abort
  std::vector<int32_t> prompt;  // at least one token
  SamplingParams sampling;
  absl::Time deadline = absl::InfiniteFuture();
};

enum class FinishReason : uint8_t { kStop, kLength };

struct Usage {
  int32_t prompt_tokens = 0;
  int32_t completion_tokens = 0;
};

// One delivery to a client: new tokens, and on the last one how it ended.
struct TokenDelta {
  std::vector<int32_t> tokens;           // may be empty on the last delta
  bool finished = false;
  absl::Status status;                   // not OK: the request failed; finished is set
  std::optional<FinishReason> reason;    // set when finished with an OK status
  std::optional<int32_t> stop_token_id;  // the token that stopped it; not among the tokens
  Usage usage;                           // set when finished
};

// One request's way back. The engine pushes and never waits; one reader takes.
class RequestStream {
 public:
  // Reader: waits until something is there or `deadline` passes (then an empty, unfinished delta).
  // Tokens pushed since the last call come merged into one delta.
  TokenDelta Next(absl::Time deadline = absl::InfiniteFuture());

  // Reader, any thread: the engine drops the request within one step and ends the stream CANCELLED.
  void Cancel();

  // Engine.
  void Push(int32_t token);
  void Finish(TokenDelta last);  // its tokens are appended to what was pushed
  bool cancelled() const;

 private:
  mutable absl::Mutex mutex_;
  TokenDelta pending_ ABSL_GUARDED_BY(mutex_);
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace intermix
