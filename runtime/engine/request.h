// What a client asks of the engine and what comes back. Plain values, and the one thread-safe
// object between the front (gRPC, command line) and the engine: RequestStream.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "runtime/engine/logprobs.h"
#include "runtime/engine/sampling_params.h"

namespace intermix {

struct GenerateRequest {
  static constexpr int32_t kMaxPriority = 1000;
  static constexpr size_t kMaxSaltBytes = 256;

  std::string id;               // unique among live requests; for logs and abort
  std::vector<int32_t> prompt;  // at least one token
  SamplingParams sampling;
  int32_t priority = 0;    // higher goes first; within kMaxPriority of 0
  std::string cache_salt;  // only requests of the same salt share cached prefixes
  absl::Time deadline = absl::InfiniteFuture();

  // INVALID_ARGUMENT naming the field and what it may be.
  absl::Status Validate(int32_t vocab_size) const;
};

enum class FinishReason : uint8_t { kStop, kLength };

struct Usage {
  int32_t prompt_tokens = 0;
  int32_t completion_tokens = 0;  // delivered ones; the stopping token is not among them
};

// One delivery to a client: new tokens, and on the last one how it ended.
struct TokenDelta {
  std::vector<int32_t> tokens;          // may be empty on the last delta
  std::vector<TokenLogprobs> logprobs;  // of each of the tokens, where they were asked for
  // Of prompt tokens, in order from the second one on, where asked for; before any token.
  std::vector<TokenLogprobs> prompt_logprobs;
  bool finished = false;
  absl::Status status;                   // not OK: the request failed; finished is set
  std::optional<FinishReason> reason;    // set when finished with an OK status
  std::optional<int32_t> stop_token_id;  // the token that stopped it; not among the tokens
  std::optional<std::string> stop;       // the stop string that stopped it; the front sets it
  Usage usage;                           // set when finished

  // Nothing to deliver.
  bool empty() const { return tokens.empty() && prompt_logprobs.empty() && !finished; }
};

// One request's way back. The engine pushes and never waits; one reader takes.
//
// Shared by both sides. std::mutex, not absl::Mutex: ThreadSanitizer sees through it, while
// Debian's absl, built without the sanitizer, makes it report races that are none.
class RequestStream {
 public:
  // With 20 logprobs each, about half of the 4 MiB that a gRPC client takes in one message.
  static constexpr size_t kMaxMerged = 4096;

  // Reader: waits until something is there or `deadline` passes (then an empty, unfinished delta).
  // Tokens pushed since the last call come merged into one delta, but for what exceeds kMaxMerged
  // tokens or prompt logprobs: that is left for the next call. After the finished delta it returns
  // that one again at once, without tokens.
  TokenDelta Next(absl::Time deadline = absl::InfiniteFuture());

  // Reader, once, before its first Next: `ready` is called after every Push and Finish, on the
  // engine's thread, so it must return at once; and now, where something is there already. For
  // readers that must not hold a thread; they take what is there with Next(absl::InfinitePast()).
  void OnReady(std::function<void()> ready);

  // Any thread: the engine drops the request within one step and ends the stream CANCELLED.
  void Cancel() { Want(Wanted::kNothing); }

  // Any thread: what was read is the whole answer (a stop string ended it); the engine drops the
  // request within one step and ends the stream kStop.
  void HasEnough() { Want(Wanted::kEnd); }

  // Any thread: how long it was queued and how many tokens of its prompt the prefix cache held,
  // once that is known.
  struct Started {
    absl::Duration queued;
    int32_t cached_tokens = 0;
  };
  std::optional<Started> started() const;

  // Engine. Nothing follows Finish. All tokens of a request come with logprobs, or none.
  void Push(int32_t token, std::optional<TokenLogprobs> logprobs = std::nullopt);
  void PushPrompt(std::vector<TokenLogprobs> logprobs);  // of the next prompt tokens
  void Finish(TokenDelta last);  // its tokens are appended to what was pushed
  // How many of the tokens that were pushed the reader has not taken.
  size_t unread() const { return unread_.load(std::memory_order_relaxed); }
  // Its sequence is in a step for the first time. Once.
  void Start(absl::Duration queued, int32_t cached_tokens);
  bool cancelled() const { return wanted_.load(std::memory_order_relaxed) == Wanted::kNothing; }
  bool has_enough() const { return wanted_.load(std::memory_order_relaxed) == Wanted::kEnd; }

 private:
  enum class Wanted : uint8_t { kMore, kEnd, kNothing };

  void Want(Wanted wanted) {  // the first one counts
    Wanted more = Wanted::kMore;
    wanted_.compare_exchange_strong(more, wanted, std::memory_order_relaxed);
  }
  void Change(const std::function<void(TokenDelta&)>& change);

  std::mutex mutex_;  // held for a few instructions only: the engine never waits for a reader
  std::condition_variable ready_;
  TokenDelta pending_;                                     // guarded by mutex_
  std::shared_ptr<const std::function<void()>> on_ready_;  // guarded by mutex_
  std::atomic<size_t> unread_{0};                          // pending_.tokens.size()
  std::atomic<Wanted> wanted_{Wanted::kMore};
  std::atomic<int64_t> queued_ns_{-1};  // -1: not started; set last
  std::atomic<int32_t> cached_tokens_{0};
};

}  // namespace intermix
