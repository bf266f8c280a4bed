// Engine: rank 0's side of continuous batching. Owns the scheduler, the sampler and the request
// queue; its thread builds a Batch, has the ModelRunner step it on every rank, and samples; while a
// step runs it feeds the streams and prepares the next. While nothing is to be done it sleeps and
// uses no CPU.
//
// All but Run may be called from any thread; the step loop runs in Run(), in one
// thread that the caller provides.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/engine/request.h"
#include "runtime/engine/request_times.h"

namespace intermix {

class ModelRunner;

struct EngineOptions {
  int32_t max_batch_tokens = 512;  // token budget of one step: decode tokens plus prefill chunk
  int32_t max_running = 64;        // sequences that may be stepped together
  int32_t max_queue = 256;         // waiting requests before RESOURCE_EXHAUSTED
  // Tokens that a client may leave unread; with more its stream ends RESOURCE_EXHAUSTED, so that a
  // client that does not read costs little memory and no time.
  int32_t max_unread = 4096;
  bool prefix_caching = true;
  int num_threads = 0;  // that choose tokens, at most; 0: as many as CPUs
  // Waiting that makes up for one level of priority, so that no request waits forever.
  absl::Duration priority_ageing = absl::Seconds(10);

  // INVALID_ARGUMENT naming the field; each must be at least 1 (the ageing a millisecond).
  absl::Status Validate() const;
};

// What the engine is doing, for status pages and heartbeats.
struct EngineSnapshot {
  int64_t step = 0;
  int32_t running = 0;
  int32_t waiting = 0;
  int32_t free_blocks = 0;  // KV blocks, over all dp groups
  int32_t total_blocks = 0;
  int32_t block_size = 0;            // tokens that a block holds
  int64_t prompt_tokens = 0;         // since start, of requests that got a first token
  int64_t generated_tokens = 0;      // since start
  int64_t preemptions = 0;           // since start: sequences put back for want of room
  int64_t stopped = 0;               // since start: requests that ended with kStop
  int64_t reached_length = 0;        // since start: with kLength
  int64_t failed = 0;                // since start: with another status than OK
  int64_t prefix_lookup_tokens = 0;  // since start: of sequences that were admitted
  int64_t prefix_hit_tokens = 0;     // since start: of these, found in the prefix cache
};

class Engine {
 public:
  // `options` are valid. `runner` outlives the engine and says how large the KV cache is.
  Engine(const EngineOptions& options, ModelRunner& runner);
  // Run has returned or was never called; streams that are still open end UNAVAILABLE.
  ~Engine();

  static constexpr int32_t kMaxChoices = 32;

  // Queues the request; its tokens come through the stream. Failures that show only later end the
  // stream with their status: CANCELLED, DEADLINE_EXCEEDED, UNAVAILABLE, INTERNAL (NaN logits),
  // RESOURCE_EXHAUSTED (the client does not read).
  //   INVALID_ARGUMENT: a bad field, a token id outside the vocabulary, a prompt that can never
  //   fit. RESOURCE_EXHAUSTED: the queue is full.  UNAVAILABLE: shutting down.
  absl::StatusOr<std::shared_ptr<RequestStream>> Submit(const GenerateRequest& request);

  // Queues `num_choices` answers to one request, all or none; each has its own stream and its own
  // random numbers. The first one is what Submit gives; it alone tells prompt logprobs.
  //   As Submit; INVALID_ARGUMENT also for less than 1, or more than kMaxChoices or max_queue.
  using Streams = std::vector<std::shared_ptr<RequestStream>>;
  absl::StatusOr<Streams> SubmitChoices(const GenerateRequest& request, int32_t num_choices);

  // Steps until Shutdown, then ends every open stream UNAVAILABLE and tells the other ranks to
  // stop. Called once.
  void Run();

  // Forgets cached prefixes before anything that is submitted from here on is scheduled.
  void FlushPrefixCache();

  // Asks Run to return after the current step. Idempotent.
  void Shutdown();

  EngineSnapshot Snapshot() const;
  const RequestTimes& times() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace intermix
