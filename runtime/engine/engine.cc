#include "runtime/engine/engine.h"

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/core/check.h"
#include "runtime/engine/model_runner.h"
#include "runtime/engine/sampler.h"
#include "runtime/engine/scheduler.h"

namespace intermix {
namespace {

SchedulerOptions MakeSchedulerOptions(const EngineOptions& options, const ModelRunner& runner) {
  return {.max_batch_tokens = options.max_batch_tokens,
          .max_running = options.max_running,
          .max_context = runner.max_context(),
          .num_dp_groups = runner.num_dp_groups(),
          .num_blocks = runner.num_kv_blocks(),
          .block_size = runner.block_size()};
}

absl::Status ValidatePrompt(const std::vector<int32_t>& prompt, int32_t vocab_size) {
  if (prompt.empty()) {
    return absl::InvalidArgumentError("the prompt is empty; it must have at least one token");
  }
  for (size_t i = 0; i < prompt.size(); ++i) {
    if (prompt[i] < 0 || prompt[i] >= vocab_size) {
      return absl::InvalidArgumentError(absl::StrCat(
          "prompt token ", i, " is ", prompt[i], "; the vocabulary has ids 0 to ", vocab_size - 1));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status EngineOptions::Validate() const {
  const std::pair<const char*, int32_t> fields[] = {{"max_batch_tokens", max_batch_tokens},
                                                    {"max_running", max_running},
                                                    {"max_queue", max_queue}};
  for (const auto& [name, value] : fields) {
    if (value < 1) {
      return absl::InvalidArgumentError(
          absl::StrCat(name, " is ", value, "; it must be at least 1"));
    }
  }
  return absl::OkStatus();
}

class Engine::Impl {
 public:
  Impl(const EngineOptions& options, ModelRunner& runner)
      : options_(options), runner_(runner), scheduler_(MakeSchedulerOptions(options, runner)) {
    Publish();
  }
  ~Impl() { EndAll(); }

  absl::StatusOr<std::shared_ptr<RequestStream>> Submit(GenerateRequest request);
  void Run();
  void Shutdown();
  EngineSnapshot Snapshot() const;

 private:
  bool WaitForWork();
  void DropCancelledAndExpired();
  void Step();
  void TakeToken(Sequence& sequence, std::span<const float> logits);
  void End(const Sequence& sequence, TokenDelta last);
  void EndAll();
  void Publish();

  // Constant, or of the thread in Run.
  const EngineOptions options_;
  ModelRunner& runner_;
  Scheduler scheduler_;
  Sampler sampler_;
  int64_t step_ = 0;
  int64_t prompt_tokens_ = 0;
  int64_t generated_tokens_ = 0;

  // Held for a few instructions only: neither side waits for the other's work.
  mutable std::mutex mutex_;
  std::condition_variable work_;
  // Guarded by mutex_.
  std::vector<std::unique_ptr<Sequence>> incoming_;  // submitted, not yet with the scheduler
  EngineSnapshot snapshot_;                          // its waiting leaves incoming_ out
  int64_t num_submitted_ = 0;
  bool shutdown_ = false;
};

absl::StatusOr<std::shared_ptr<RequestStream>> Engine::Impl::Submit(GenerateRequest request) {
  if (absl::Status s = ValidatePrompt(request.prompt, runner_.vocab_size()); !s.ok()) return s;
  if (absl::Status s = request.sampling.Validate(runner_.vocab_size()); !s.ok()) return s;
  const absl::StatusOr<int32_t> max_length = scheduler_.MaxLength(
      static_cast<int64_t>(request.prompt.size()), request.sampling.max_tokens);
  if (!max_length.ok()) return max_length.status();

  auto stream = std::make_shared<RequestStream>();
  auto sequence = std::make_unique<Sequence>();
  sequence->sampling = std::move(request.sampling);
  sequence->deadline = request.deadline;
  sequence->stream = stream;
  sequence->tokens = std::move(request.prompt);
  sequence->num_prompt_tokens = sequence->length();
  sequence->max_length = *max_length;
  {
    const std::lock_guard lock(mutex_);
    if (shutdown_) return absl::UnavailableError("the server is shutting down");
    const int64_t waiting = snapshot_.waiting + static_cast<int64_t>(incoming_.size());
    if (waiting >= options_.max_queue) {
      return absl::ResourceExhaustedError(
          absl::StrCat("the queue is full: ", waiting, " requests wait already; try again later"));
    }
    sequence->arrival = num_submitted_++;
    incoming_.push_back(std::move(sequence));
  }
  work_.notify_one();
  return stream;
}

void Engine::Impl::Run() {
  while (WaitForWork()) {
    DropCancelledAndExpired();
    Step();
    Publish();
  }
  EndAll();
  runner_.Stop();
}

// Sleeps while there is nothing to do, then hands new requests to the scheduler. False at shutdown.
bool Engine::Impl::WaitForWork() {
  const bool busy = scheduler_.num_running() + scheduler_.num_waiting() > 0;
  std::unique_lock lock(mutex_);
  work_.wait(lock, [&] { return busy || shutdown_ || !incoming_.empty(); });
  if (shutdown_) return false;
  for (std::unique_ptr<Sequence>& sequence : incoming_) scheduler_.Add(std::move(sequence));
  incoming_.clear();
  snapshot_.waiting = scheduler_.num_waiting();
  return true;
}

void Engine::Impl::DropCancelledAndExpired() {
  const absl::Time now = absl::Now();
  std::vector<std::pair<const Sequence*, absl::Status>> ended;
  scheduler_.ForEach([&](Sequence& sequence) {
    if (sequence.stream->cancelled()) {
      ended.emplace_back(&sequence, absl::CancelledError("the request was cancelled"));
    } else if (sequence.deadline <= now) {
      ended.emplace_back(&sequence, absl::DeadlineExceededError(absl::StrCat(
                                        "the request's deadline passed after ",
                                        sequence.num_output_tokens(), " output tokens")));
    }
  });
  for (auto& [sequence, status] : ended) End(*sequence, {.status = std::move(status)});
}

void Engine::Impl::Step() {
  const StepPlan plan = scheduler_.Schedule(step_);
  if (plan.sequences.empty()) return;
  const Tensor logits = runner_.Step(plan.batch);  // [rows, vocab_size] float32
  ++step_;
  scheduler_.MarkStepped(plan);
  const int64_t num_rows = plan.batch.num_logits_rows();
  if (num_rows == 0) return;
  CHECK_EQ(logits.rows(), num_rows);
  CHECK_EQ(logits.cols(), runner_.vocab_size());
  int64_t row = 0;
  for (size_t i = 0; i < plan.sequences.size(); ++i) {
    if (plan.batch.chunks[i].logits == LogitsWanted::kNone) continue;
    const size_t vocab_size = static_cast<size_t>(logits.cols());
    TakeToken(*plan.sequences[i], {logits.row<float>(row++), vocab_size});
  }
}

// Samples a sequence's next token from its row and delivers it, or ends the sequence.
void Engine::Impl::TakeToken(Sequence& sequence, std::span<const float> logits) {
  const int32_t output_index = sequence.num_output_tokens();
  if (output_index == 0) prompt_tokens_ += sequence.num_prompt_tokens;
  const absl::StatusOr<int32_t> token = sampler_.Sample(logits, sequence.sampling, output_index);
  if (!token.ok()) return End(sequence, {.status = token.status()});
  const std::vector<int32_t>& stop_ids = sequence.sampling.stop_token_ids;
  if (std::find(stop_ids.begin(), stop_ids.end(), *token) != stop_ids.end()) {
    return End(sequence, {.reason = FinishReason::kStop, .stop_token_id = *token});
  }
  sequence.tokens.push_back(*token);
  sequence.stream->Push(*token);
  ++generated_tokens_;
  if (sequence.length() == sequence.max_length) {
    End(sequence, {.reason = FinishReason::kLength});
  }
}

// Forgets the sequence first and ends its stream last: who sees the end finds its blocks given
// back.
void Engine::Impl::End(const Sequence& sequence, TokenDelta last) {
  const std::shared_ptr<RequestStream> stream = sequence.stream;
  last.usage = {.prompt_tokens = sequence.num_prompt_tokens,
                .completion_tokens = sequence.num_output_tokens()};
  scheduler_.Remove(sequence);
  Publish();
  stream->Finish(std::move(last));
}

// Ends every stream, also of requests that never reached the scheduler.
void Engine::Impl::EndAll() {
  {
    const std::lock_guard lock(mutex_);
    shutdown_ = true;
    for (std::unique_ptr<Sequence>& sequence : incoming_) scheduler_.Add(std::move(sequence));
    incoming_.clear();
  }
  std::vector<const Sequence*> live;
  scheduler_.ForEach([&](Sequence& sequence) { live.push_back(&sequence); });
  for (const Sequence* sequence : live) {
    End(*sequence, {.status = absl::UnavailableError("the server is shutting down")});
  }
}

void Engine::Impl::Shutdown() {
  {
    const std::lock_guard lock(mutex_);
    shutdown_ = true;
  }
  work_.notify_one();
}

void Engine::Impl::Publish() {
  const std::lock_guard lock(mutex_);
  snapshot_ = {.step = step_,
               .running = scheduler_.num_running(),
               .waiting = scheduler_.num_waiting(),
               .free_blocks = scheduler_.num_free_blocks(),
               .total_blocks = scheduler_.num_total_blocks(),
               .prompt_tokens = prompt_tokens_,
               .generated_tokens = generated_tokens_,
               .preemptions = scheduler_.num_preemptions()};
}

EngineSnapshot Engine::Impl::Snapshot() const {
  const std::lock_guard lock(mutex_);
  EngineSnapshot snapshot = snapshot_;
  snapshot.waiting += static_cast<int32_t>(incoming_.size());
  return snapshot;
}

Engine::Engine(const EngineOptions& options, ModelRunner& runner)
    : impl_(std::make_unique<Impl>(options, runner)) {}
Engine::~Engine() = default;

absl::StatusOr<std::shared_ptr<RequestStream>> Engine::Submit(GenerateRequest request) {
  return impl_->Submit(std::move(request));
}
void Engine::Run() { impl_->Run(); }
void Engine::Shutdown() { impl_->Shutdown(); }
EngineSnapshot Engine::Snapshot() const { return impl_->Snapshot(); }

}  // namespace intermix
