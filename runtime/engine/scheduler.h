// Scheduler: which tokens of which sequences the next step runs, by priority, then first come,
// first served, with continuous batching: sequences join and leave between any two steps.
//
// A step has a budget of tokens. Decoding sequences take one each, in order (Sequence::GoesBefore);
// what is left goes to prompts, cut into chunks where they are longer; then waiting sequences are
// admitted while there is budget and room. A sequence gets the blocks of all its tokens when it is
// admitted (in the dp group with the most free blocks that none will soon need) and one more
// whenever decoding fills its last. Where none is left the group's last sequence in order, the
// youngest of the lowest priority, is preempted: it loses its blocks and waits again at its old
// place; later its prompt and output are prefilled like any prompt, but for what the prefix cache
// kept. The same happens to sequences of lower priority where the first waiting one finds no room.
// The first sequence in order can always go on, and with time each becomes the first, so every
// sequence ends.
//
// Not thread-safe; owned by the engine and used from its thread.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/engine/batch.h"
#include "runtime/engine/sequence.h"
#include "runtime/kv/block_manager.h"

namespace intermix {

struct SchedulerOptions {
  int32_t max_batch_tokens = 512;  // of one step, over all dp groups
  int32_t max_running = 64;        // at most max_batch_tokens are used, so that each can decode
  int32_t max_context = 0;         // positions a sequence may reach
  int32_t num_dp_groups = 1;
  int32_t num_blocks = 0;  // in each dp group
  int32_t block_size = 16;
  bool cache_prefixes = true;
};

// What one step runs: sequences[i] owns batch.chunks[i]. A chunk that reaches its sequence's last
// token asks for logits: the next token is to be sampled. One whose sequence wants prompt logprobs
// asks for all of its logits.
struct StepPlan {
  Batch batch;
  std::vector<Sequence*> sequences;
};

class Scheduler {
 public:
  explicit Scheduler(const SchedulerOptions& options);

  // How long a sequence may get: its prompt + max_tokens, cut at the context's end.
  //   INVALID_ARGUMENT with the numbers: the prompt leaves no room in the context for an output
  //   token, or the whole cache could not hold the sequence.
  // Any thread: depends on the options alone.
  absl::StatusOr<int32_t> MaxLength(int64_t num_prompt_tokens, int64_t max_tokens) const;

  // Adds a sequence without blocks.
  void Add(std::unique_ptr<Sequence> sequence);

  // Plans the next step. Its chunks are empty only where there is no sequence. The sequences named
  // live until they are removed.
  StepPlan Schedule(int64_t step);

  // While the plan is being stepped: makes ready what the next one runs of its sequences, as far as
  // that needs neither a token of this one, nor a preemption, nor a block that holds a prefix. Only
  // saves time.
  void PrepareNext(const StepPlan& plan);

  // The plan was stepped: its tokens are in the cache.
  void MarkStepped(const StepPlan& plan);

  // Forgets a sequence, running or waiting, and takes its blocks back.
  void Remove(const Sequence& sequence);

  // See BlockManager.
  void ForgetPrefixes();

  // Running ones, then waiting ones, each in order. `visit` may not change the
  // scheduler.
  void ForEach(const std::function<void(Sequence&)>& visit) const;

  int32_t num_running() const { return static_cast<int32_t>(running_.size()); }
  int32_t num_waiting() const { return static_cast<int32_t>(waiting_.size()); }
  int32_t num_free_blocks() const;
  int32_t num_total_blocks() const { return options_.num_dp_groups * options_.num_blocks; }
  int64_t num_preemptions() const { return num_preemptions_; }
  int64_t num_lookup_tokens() const;  // of admitted sequences, since start
  int64_t num_hit_tokens() const;     // of these, found in the prefix cache

 private:
  using Queue = std::vector<std::unique_ptr<Sequence>>;  // in order

  void MakeWay();
  void ScheduleDecodes(StepPlan& plan, int32_t& budget);
  void SchedulePrefills(StepPlan& plan, int32_t& budget);
  void Admit(StepPlan& plan, int32_t& budget);
  bool MakeRoom(size_t running_index);
  void Preempt(size_t running_index);
  void AddChunk(StepPlan& plan, int32_t& budget, Sequence& sequence);
  SequenceChunk MakeChunk(const Sequence& sequence, int32_t start, LogitsWanted logits,
                          std::vector<int32_t> tokens) const;
  BlockRequest RequestOf(const Sequence& sequence, int32_t dp_rank) const;
  int32_t NumGrowing(const Sequence& running) const;
  bool HasRoom(const Sequence& sequence, int32_t dp_rank) const;
  bool Yields(const Sequence& running, const Sequence& sequence) const;
  bool WaitsForPrefix(const Sequence& sequence) const;
  int32_t RoomiestGroup() const;
  int32_t GroupToClearFor(const Sequence& sequence) const;
  int32_t NumRunningIn(int32_t dp_rank) const;
  static void Insert(Queue& queue, std::unique_ptr<Sequence> sequence);

  SchedulerOptions options_;
  std::vector<BlockManager> groups_;  // [num_dp_groups]
  Queue running_;
  Queue waiting_;
  int64_t num_preemptions_ = 0;
};

}  // namespace intermix
