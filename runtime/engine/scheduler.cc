#include "runtime/engine/scheduler.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/core/check.h"

namespace intermix {

Scheduler::Scheduler(const SchedulerOptions& options) : options_(options) {
  CHECK_GE(options.max_batch_tokens, 1);
  CHECK_GE(options.max_running, 1);
  CHECK_GE(options.max_context, 1);
  CHECK_GE(options.num_dp_groups, 1);
  options_.max_running = std::min(options.max_running, options.max_batch_tokens);
  for (int32_t i = 0; i < options.num_dp_groups; ++i) {
    groups_.emplace_back(options.num_blocks, options.block_size, options.cache_prefixes);
  }
}

absl::StatusOr<int32_t> Scheduler::MaxLength(int64_t num_prompt_tokens, int64_t max_tokens) const {
  if (num_prompt_tokens >= options_.max_context) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the prompt has ", num_prompt_tokens, " tokens; a context of ", options_.max_context,
        " positions takes at most ", options_.max_context - 1, ", so that one can follow"));
  }
  const int64_t length = std::min<int64_t>(num_prompt_tokens + max_tokens, options_.max_context);
  // The last token is never fed back, so it needs no place.
  const int32_t blocks = BlockManager::BlocksFor(length - 1, options_.block_size);
  if (blocks > options_.num_blocks) {
    return absl::InvalidArgumentError(
        absl::StrCat("a prompt of ", num_prompt_tokens, " tokens with up to ",
                     length - num_prompt_tokens, " output tokens needs ", blocks, " KV blocks of ",
                     options_.block_size, " positions; the whole cache has ", options_.num_blocks,
                     "; shorten the prompt, lower max_tokens, or give the cache more memory"));
  }
  return static_cast<int32_t>(length);
}

void Scheduler::Add(std::unique_ptr<Sequence> sequence) {
  CHECK(sequence->kv.blocks.empty());
  Insert(waiting_, std::move(sequence));
}

StepPlan Scheduler::Schedule(int64_t step) {
  StepPlan plan;
  plan.batch.step = step;
  int32_t budget = options_.max_batch_tokens;
  MakeWay();
  const int64_t preemptions_before = num_preemptions_;
  ScheduleDecodes(plan, budget);
  SchedulePrefills(plan, budget);
  // What was just preempted would be the first to come back, and to be preempted again.
  if (num_preemptions_ == preemptions_before) Admit(plan, budget);
  return plan;
}

void Scheduler::ScheduleDecodes(StepPlan& plan, int32_t& budget) {
  for (size_t i = 0; i < running_.size();) {
    if (running_[i]->num_pending() > 1) {
      ++i;
    } else if (MakeRoom(i)) {  // else it was preempted itself, and i names the next one
      AddChunk(plan, budget, *running_[i]);
      ++i;
    }
  }
}

void Scheduler::SchedulePrefills(StepPlan& plan, int32_t& budget) {
  for (const std::unique_ptr<Sequence>& sequence : running_) {
    if (budget == 0) return;
    if (sequence->num_pending() > 1) AddChunk(plan, budget, *sequence);
  }
}

void Scheduler::Admit(StepPlan& plan, int32_t& budget) {
  while (budget > 0 && !waiting_.empty() && num_running() < options_.max_running) {
    const int32_t dp_rank = RoomiestGroup();
    Sequence& sequence = *waiting_.front();
    if (WaitsForPrefix(sequence)) return;
    if (!groups_[dp_rank].Allocate(RequestOf(sequence, dp_rank), sequence.kv)) return;
    sequence.dp_rank = dp_rank;
    Insert(running_, std::move(waiting_.front()));
    waiting_.erase(waiting_.begin());
    AddChunk(plan, budget, sequence);
  }
}

// Each sequence that runs there may soon need a block: it is left one, or admission would only
// bring preemption. A sequence alone in a group always fits (MaxLength).
BlockRequest Scheduler::RequestOf(const Sequence& sequence, int32_t dp_rank) const {
  return {.tokens = sequence.tokens,
          .salt = sequence.cache_salt,
          .reuse = !sequence.wants_prompt_logprobs(),
          .reserve = NumRunningIn(dp_rank)};
}

// Whether another answer to the same request is computing the prompt that this one will share.
bool Scheduler::WaitsForPrefix(const Sequence& sequence) const {
  if (!options_.cache_prefixes || sequence.choice == 0) return false;
  return std::any_of(running_.begin(), running_.end(), [&](const auto& other) {
    return other->arrival == sequence.first_choice &&
           other->kv.num_cached < other->num_prompt_tokens;
  });
}

// Where the first waiting sequence has no room, puts running ones of lower priority back, the last
// in order first, if that makes room. Comes before anything is planned, so that no chunk of a step
// loses its blocks.
void Scheduler::MakeWay() {
  if (waiting_.empty()) return;
  const Sequence& first = *waiting_.front();
  const int32_t dp_rank = GroupToClearFor(first);
  if (dp_rank < 0) return;
  while (num_running() >= options_.max_running || !HasRoom(first, dp_rank)) {
    const bool any_group = HasRoom(first, dp_rank);  // it only lacks a place among the running
    int32_t last = num_running() - 1;
    const auto is_it = [&](const Sequence& running) {
      return Yields(running, first) && (any_group || running.dp_rank == dp_rank);
    };
    while (last >= 0 && !is_it(*running_[last])) --last;
    if (last < 0) return;
    Preempt(static_cast<size_t>(last));
  }
}

bool Scheduler::Yields(const Sequence& running, const Sequence& sequence) const {
  return running.priority < sequence.priority && sequence.GoesBefore(running);
}

// Blocks that the next step takes for its tokens.
int32_t Scheduler::NumGrowing(const Sequence& running) const {
  return groups_[running.dp_rank].BlocksFor(running.length()) -
         static_cast<int32_t>(running.kv.blocks.size());
}

// Whether it will be admitted after the running ones have grown.
bool Scheduler::HasRoom(const Sequence& sequence, int32_t dp_rank) const {
  const BlockRequest request = RequestOf(sequence, dp_rank);
  int32_t needed = groups_[dp_rank].NumNeededBy(request) + request.reserve;
  for (const std::unique_ptr<Sequence>& running : running_) {
    if (running->dp_rank == dp_rank) needed += NumGrowing(*running);
  }
  return needed <= groups_[dp_rank].num_free();
}

// A group that has room for `sequence`, or else the one that has most where all that yield to it
// have left; -1 where there is none, or nobody yields.
int32_t Scheduler::GroupToClearFor(const Sequence& sequence) const {
  if (std::none_of(running_.begin(), running_.end(),
                   [&](const auto& running) { return Yields(*running, sequence); })) {
    return -1;
  }
  int32_t best = -1;
  int32_t most = -1;
  for (int32_t g = 0; g < options_.num_dp_groups; ++g) {
    if (HasRoom(sequence, g)) return g;
    std::vector<const BlockTable*> yielding;
    int32_t room = groups_[g].num_free() - groups_[g].NumNeededBy(RequestOf(sequence, g));
    for (const std::unique_ptr<Sequence>& running : running_) {
      if (running->dp_rank != g) continue;
      if (Yields(*running, sequence)) {
        yielding.push_back(&running->kv);
      } else {
        room -= NumGrowing(*running) + 1;  // and the block that is left to it
      }
    }
    room += groups_[g].NumFreedBy(yielding);
    if (room > most) {
      most = room;
      best = g;
    }
  }
  return best;
}

// Gives running_[running_index] the blocks for all its tokens, taking them from the last of its
// group while there are none. False where it was the last itself.
bool Scheduler::MakeRoom(size_t running_index) {
  Sequence& sequence = *running_[running_index];
  BlockManager& manager = groups_[sequence.dp_rank];
  while (!manager.Grow(sequence.length(), sequence.kv)) {
    size_t last = running_.size() - 1;
    while (running_[last]->dp_rank != sequence.dp_rank) --last;
    CHECK(last > running_index || NumRunningIn(sequence.dp_rank) > 1)
        << "a sequence of " << sequence.length() << " tokens does not fit the cache alone";
    Preempt(last);
    if (last == running_index) return false;
  }
  return true;
}

void Scheduler::Preempt(size_t running_index) {
  std::unique_ptr<Sequence> sequence = std::move(running_[running_index]);
  running_.erase(running_.begin() + static_cast<std::ptrdiff_t>(running_index));
  groups_[sequence->dp_rank].Free(sequence->kv);
  sequence->prepared.reset();
  Insert(waiting_, std::move(sequence));
  ++num_preemptions_;
}

void Scheduler::AddChunk(StepPlan& plan, int32_t& budget, Sequence& sequence) {
  // Logits of every position take much memory: few at a time.
  constexpr int32_t kMaxLogprobRows = 64;
  const int32_t start = sequence.kv.num_cached;
  int32_t count = std::min(budget, sequence.num_pending());
  if (sequence.wants_prompt_logprobs()) count = std::min(count, kMaxLogprobRows);
  CHECK_GE(count, 1);
  std::optional<SequenceChunk> prepared = std::exchange(sequence.prepared, std::nullopt);
  if (prepared.has_value() && sequence.num_pending() == 1) {
    CHECK_EQ(prepared->start, start);
    prepared->tokens.front() = sequence.tokens.back();
    plan.batch.chunks.push_back(*std::move(prepared));
  } else {
    LogitsWanted logits =
        start + count == sequence.length() ? LogitsWanted::kLast : LogitsWanted::kNone;
    if (sequence.wants_prompt_logprobs()) logits = LogitsWanted::kAll;
    const auto first = sequence.tokens.begin() + start;
    plan.batch.chunks.push_back(MakeChunk(sequence, start, logits, {first, first + count}));
  }
  plan.sequences.push_back(&sequence);
  budget -= count;
}

SequenceChunk Scheduler::MakeChunk(const Sequence& sequence, int32_t start, LogitsWanted logits,
                                   std::vector<int32_t> tokens) const {
  const int32_t end = start + static_cast<int32_t>(tokens.size());
  const auto blocks = sequence.kv.blocks.begin();
  return {.dp_rank = sequence.dp_rank,
          .start = start,
          .logits = logits,
          .tokens = std::move(tokens),
          .blocks = {blocks, blocks + groups_[sequence.dp_rank].BlocksFor(end)}};
}

void Scheduler::PrepareNext(const StepPlan& plan) {
  for (size_t i = 0; i < plan.sequences.size(); ++i) {
    Sequence& sequence = *plan.sequences[i];
    const int32_t next = sequence.length();  // where the token of this step will stand
    const bool decodes = plan.batch.chunks[i].logits == LogitsWanted::kLast;
    if (!decodes || next + 1 >= sequence.max_length) continue;
    BlockManager& manager = groups_[sequence.dp_rank];
    if (manager.GrowingForgets(next + 1, sequence.kv)) continue;  // this step may free others
    if (!manager.Grow(next + 1, sequence.kv)) continue;
    sequence.prepared = MakeChunk(sequence, next, LogitsWanted::kLast, {0});
  }
}

void Scheduler::MarkStepped(const StepPlan& plan) {
  for (size_t i = 0; i < plan.sequences.size(); ++i) {
    Sequence& sequence = *plan.sequences[i];
    const std::span<const int32_t> tokens(sequence.tokens);
    groups_[sequence.dp_rank].MarkCached(
        tokens.first(static_cast<size_t>(plan.batch.chunks[i].end())), sequence.kv);
  }
}

void Scheduler::Remove(const Sequence& sequence) {
  for (Queue* queue : {&running_, &waiting_}) {
    for (auto it = queue->begin(); it != queue->end(); ++it) {
      if (it->get() != &sequence) continue;
      groups_[(*it)->dp_rank].Free((*it)->kv);
      queue->erase(it);
      return;
    }
  }
  Fatal("a sequence that is not live was removed");
}

void Scheduler::ForgetPrefixes() {
  for (BlockManager& manager : groups_) manager.ForgetPrefixes();
}

void Scheduler::ForEach(const std::function<void(Sequence&)>& visit) const {
  for (const Queue* queue : {&running_, &waiting_}) {
    for (const std::unique_ptr<Sequence>& sequence : *queue) visit(*sequence);
  }
}

int32_t Scheduler::num_free_blocks() const {
  int32_t count = 0;
  for (const BlockManager& manager : groups_) count += manager.num_free();
  return count;
}

int64_t Scheduler::num_lookup_tokens() const {
  int64_t count = 0;
  for (const BlockManager& manager : groups_) count += manager.num_lookup_tokens();
  return count;
}

int64_t Scheduler::num_hit_tokens() const {
  int64_t count = 0;
  for (const BlockManager& manager : groups_) count += manager.num_hit_tokens();
  return count;
}

// The group with the most free blocks, not counting the one that is left to each that runs there.
int32_t Scheduler::RoomiestGroup() const {
  std::vector<int32_t> room;
  for (int32_t g = 0; g < options_.num_dp_groups; ++g) {
    room.push_back(groups_[g].num_free() - NumRunningIn(g));
  }
  return static_cast<int32_t>(std::max_element(room.begin(), room.end()) - room.begin());
}

int32_t Scheduler::NumRunningIn(int32_t dp_rank) const {
  return static_cast<int32_t>(
      std::count_if(running_.begin(), running_.end(),
                    [&](const auto& sequence) { return sequence->dp_rank == dp_rank; }));
}

void Scheduler::Insert(Queue& queue, std::unique_ptr<Sequence> sequence) {
  const auto place =
      std::upper_bound(queue.begin(), queue.end(), sequence,
                       [](const auto& a, const auto& b) { return a->GoesBefore(*b); });
  queue.insert(place, std::move(sequence));
}

}  // namespace intermix
