// Engine: rank 0's side of continuous batching. Owns the scheduler, the sampler and the request
// queue; its thread builds a Batch, broadcasts it, steps the model with every other rank's Worker,
// samples, and feeds the streams.
//
// Submit, Snapshot and Shutdown may be called from any thread; the step loop runs in Run().
#pragma once

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "runtime/engine/request.h"

namespace intermix {

class ModelRunner;

struct EngineOptions {
  int32_t max_batch_tokens = 512;  // token budget of one step: decode tokens plus prefill chunk
  int32_t max_running = 64;        // sequences that may be stepped together
  int32_t max_queue = 256;         // waiting requests before RESOURCE_EXHAUSTED
  int32_t block_size = 16;         // positions per KV block
  int32_t num_blocks = 0;          // KV blocks per dp group; as the ModelRunner's cache holds
};

// What the engine is doing, for status pages and heartbeats.
struct EngineSnapshot {
  int64_t step = 0;
  int32_t running = 0;
  int32_t waiting = 0;
  int32_t free_blocks = 0;
  int32_t total_blocks = 0;
  int64_t prompt_tokens = 0;     // since start
  int64_t generated_tokens = 0;  // since start
};

class Engine {
 public:
  // `runner` outlives the engine.
  Engine(const EngineOptions& options, ModelRunner& runner);
  ~Engine();

  //   INVALID_ARGUMENT: a bad field, a token id outside the vocabulary, a prompt that can never fit.
  //   RESOURCE_EXHAUSTED: the queue is full.  UNAVAILABLE: shutting down.
  absl::StatusOr<std::shared_ptr<RequestStream>> Submit(GenerateRequest request);

  // Steps until Shutdown, then tells the other ranks to stop and ends every open stream UNAVAILABLE.
  void Run();

  // Asks Run to return after the current step. Idempotent.
  void Shutdown();

  EngineSnapshot Snapshot() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace intermix
