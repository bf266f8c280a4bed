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
#include "runtime/engine/scheduler.h"
#include "runtime/engine/step_sampler.h"

namespace intermix {
namespace {

SchedulerOptions MakeSchedulerOptions(const EngineOptions& options, const ModelRunner& runner) {
  return {.max_batch_tokens = options.max_batch_tokens,
          .max_running = options.max_running,
          .max_context = runner.max_context(),
          .num_dp_groups = runner.num_dp_groups(),
          .num_blocks = runner.num_kv_blocks(),
          .block_size = runner.block_size(),
          .cache_prefixes = options.prefix_caching};
}

}  // namespace

absl::Status EngineOptions::Validate() const {
  const std::pair<const char*, int32_t> fields[] = {{"max_batch_tokens", max_batch_tokens},
                                                    {"max_running", max_running},
                                                    {"max_queue", max_queue},
                                                    {"max_unread", max_unread}};
  for (const auto& [name, value] : fields) {
    if (value < 1) {
      return absl::InvalidArgumentError(
          absl::StrCat(name, " is ", value, "; it must be at least 1"));
    }
  }
  if (priority_ageing < absl::Milliseconds(1) || priority_ageing > absl::Hours(24)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "priority_ageing is ", absl::FormatDuration(priority_ageing), "; it must be 1ms to 24h"));
  }
  return absl::OkStatus();
}

class Engine::Impl {
 public:
  Impl(const EngineOptions& options, ModelRunner& runner)
      : options_(options),
        runner_(runner),
        scheduler_(MakeSchedulerOptions(options, runner)),
        sampler_(options.num_threads) {
    Publish();
  }
  ~Impl() { EndAll(); }

  absl::StatusOr<Streams> Submit(const GenerateRequest& request, int32_t num_choices);
  void Run();
  void FlushPrefixCache();
  void Shutdown();
  EngineSnapshot Snapshot() const;
  const RequestTimes& times() const { return times_; }

 private:
  absl::StatusOr<int32_t> Validate(const GenerateRequest& request, int32_t num_choices) const;
  bool WaitForWork();
  void DropCancelledAndExpired();
  void Step();
  void Begin(const StepPlan& plan, absl::Time start);
  void Take(Sequence& sequence, std::span<SampledRow> rows, absl::Time now);
  void TakeToken(Sequence& sequence, SampledRow& row, absl::Time now);
  void MeasureToken(Sequence& sequence, absl::Time now);
  void End(const Sequence& sequence, TokenDelta last);
  void EndAll();
  void Deliver();
  void Publish();

  // What is to be told a reader, once the next step is on its way.
  struct Said {
    std::shared_ptr<RequestStream> stream;
    std::vector<TokenLogprobs> prompt_logprobs;
    std::optional<int32_t> token;
    std::optional<TokenLogprobs> logprobs;
    std::optional<TokenDelta> last;
  };

  // Constant, or of the thread in Run.
  const EngineOptions options_;
  ModelRunner& runner_;
  Scheduler scheduler_;
  StepSampler sampler_;
  std::vector<Said> said_;
  int64_t step_ = 0;
  int64_t prompt_tokens_ = 0;
  int64_t generated_tokens_ = 0;
  int64_t stopped_ = 0;
  int64_t reached_length_ = 0;
  int64_t failed_ = 0;
  RequestTimes times_;  // read by any thread

  // Held for a few instructions only: neither side waits for the other's work.
  mutable std::mutex mutex_;
  std::condition_variable work_;
  // Guarded by mutex_.
  std::vector<std::unique_ptr<Sequence>> incoming_;  // submitted, not yet with the scheduler
  EngineSnapshot snapshot_;                          // its waiting leaves incoming_ out
  int64_t num_submitted_ = 0;
  bool flush_prefixes_ = false;
  bool shutdown_ = false;
};

absl::StatusOr<int32_t> Engine::Impl::Validate(const GenerateRequest& request,
                                               int32_t num_choices) const {
  if (absl::Status s = request.Validate(runner_.vocab_size()); !s.ok()) return s;
  const int32_t most = std::min(kMaxChoices, options_.max_queue);
  if (num_choices < 1 || num_choices > most) {
    return absl::InvalidArgumentError(
        absl::StrCat("n is ", num_choices, "; it must be in [1, ", most, "]"));
  }
  return scheduler_.MaxLength(static_cast<int64_t>(request.prompt.size()),
                              request.sampling.max_tokens);
}

absl::StatusOr<Engine::Streams> Engine::Impl::Submit(const GenerateRequest& request,
                                                     int32_t num_choices) {
  const absl::StatusOr<int32_t> max_length = Validate(request, num_choices);
  if (!max_length.ok()) return max_length.status();
  const absl::Time now = absl::Now();
  const int64_t due_ms = absl::ToUnixMillis(now) -
                         request.priority * absl::ToInt64Milliseconds(options_.priority_ageing);
  Streams streams;
  std::vector<std::unique_ptr<Sequence>> sequences;
  for (int32_t choice = 0; choice < num_choices; ++choice) {
    streams.push_back(std::make_shared<RequestStream>());
    auto sequence = std::make_unique<Sequence>();
    sequence->due_ms = due_ms;
    sequence->priority = request.priority;
    sequence->cache_salt = request.cache_salt;
    sequence->sampling = request.sampling;
    if (choice > 0) sequence->sampling.prompt_logprobs.reset();
    sequence->deadline = request.deadline;
    sequence->submitted = now;
    sequence->stream = streams.back();
    sequence->choice = choice;
    sequence->tokens = request.prompt;
    sequence->num_prompt_tokens = sequence->length();
    sequence->max_length = *max_length;
    sequences.push_back(std::move(sequence));
  }
  {
    const std::lock_guard lock(mutex_);
    if (shutdown_) return absl::UnavailableError("the server is shutting down");
    const int64_t waiting = snapshot_.waiting + static_cast<int64_t>(incoming_.size());
    if (waiting + num_choices > options_.max_queue) {
      return absl::ResourceExhaustedError(
          absl::StrCat("the queue is full: ", waiting, " requests wait already and at most ",
                       options_.max_queue, " may; try again later"));
    }
    for (std::unique_ptr<Sequence>& sequence : sequences) {
      sequence->arrival = num_submitted_++;
      sequence->first_choice = sequence->arrival - sequence->choice;
      incoming_.push_back(std::move(sequence));
    }
  }
  work_.notify_one();
  return streams;
}

void Engine::Impl::Run() {
  while (WaitForWork()) {
    DropCancelledAndExpired();
    Step();
  }
  EndAll();
  runner_.Stop();
}

// Sleeps while there is nothing to do, then hands new requests to the scheduler. False at shutdown.
bool Engine::Impl::WaitForWork() {
  const bool busy = scheduler_.num_running() + scheduler_.num_waiting() > 0;
  if (!busy) Deliver();
  std::unique_lock lock(mutex_);
  work_.wait(lock, [&] { return busy || shutdown_ || !incoming_.empty(); });
  if (shutdown_) return false;
  if (std::exchange(flush_prefixes_, false)) scheduler_.ForgetPrefixes();
  for (std::unique_ptr<Sequence>& sequence : incoming_) scheduler_.Add(std::move(sequence));
  incoming_.clear();
  snapshot_.waiting = scheduler_.num_waiting();
  return true;
}

void Engine::Impl::DropCancelledAndExpired() {
  const absl::Time now = absl::Now();
  std::vector<std::pair<const Sequence*, TokenDelta>> ended;
  scheduler_.ForEach([&](Sequence& sequence) {
    if (sequence.stream->has_enough()) {
      ended.emplace_back(&sequence, TokenDelta{.reason = FinishReason::kStop});
    } else if (sequence.stream->cancelled()) {
      ended.emplace_back(&sequence,
                         TokenDelta{.status = absl::CancelledError("the request was cancelled")});
    } else if (sequence.deadline <= now) {
      ended.emplace_back(
          &sequence, TokenDelta{.status = absl::DeadlineExceededError(
                                    absl::StrCat("the request's deadline passed after ",
                                                 sequence.num_output_tokens(), " output tokens"))});
    }
  });
  for (auto& [sequence, last] : ended) End(*sequence, std::move(last));
}

void Engine::Impl::Step() {
  StepPlan plan = scheduler_.Schedule(step_);
  if (plan.sequences.empty()) return Deliver();
  plan.batch.likeliest = StepSampler::LikeliestNeeded(plan, runner_.vocab_size());
  const absl::Time start = absl::Now();
  runner_.Start(plan.batch);
  Begin(plan, start);
  Deliver();
  scheduler_.PrepareNext(plan);
  const StepLogits logits = runner_.Finish();
  ++step_;
  scheduler_.MarkStepped(plan);
  const int64_t num_rows = plan.batch.num_logits_rows();
  if (num_rows == 0) return;
  CHECK_EQ(logits.values.rows(), num_rows);
  const int32_t likeliest = plan.batch.likeliest;
  CHECK_EQ(logits.values.cols(), likeliest > 0 ? likeliest : runner_.vocab_size());
  std::span<SampledRow> rows = sampler_.Sample(plan, logits);
  const absl::Time now = absl::Now();
  for (size_t i = 0; i < plan.sequences.size(); ++i) {
    const auto count = static_cast<size_t>(plan.batch.chunks[i].num_logits_rows());
    Take(*plan.sequences[i], rows.first(count), now);
    rows = rows.subspan(count);
  }
}

// Tells the readers of sequences that are in a step for the first time.
void Engine::Impl::Begin(const StepPlan& plan, absl::Time start) {
  for (Sequence* sequence : plan.sequences) {
    if (std::exchange(sequence->started, true)) continue;
    times_.queue.Observe(start - sequence->submitted);
    sequence->stream->Start(start - sequence->submitted, sequence->kv.num_cached);
  }
}

// What a step said of a sequence: goes to its reader, and may end it.
void Engine::Impl::Take(Sequence& sequence, std::span<SampledRow> rows, absl::Time now) {
  std::vector<TokenLogprobs> prompt_logprobs;
  for (SampledRow& row : rows) {
    if (!row.status.ok()) return End(sequence, {.status = row.status});
    if (row.prompt_logprobs.has_value()) prompt_logprobs.push_back(*std::move(row.prompt_logprobs));
  }
  if (!prompt_logprobs.empty()) {
    sequence.num_prompt_logprobs += static_cast<int32_t>(prompt_logprobs.size());
    said_.push_back({.stream = sequence.stream, .prompt_logprobs = std::move(prompt_logprobs)});
  }
  if (!rows.empty() && rows.back().token.has_value()) TakeToken(sequence, rows.back(), now);
}

void Engine::Impl::TakeToken(Sequence& sequence, SampledRow& row, absl::Time now) {
  if (sequence.num_output_tokens() == 0) prompt_tokens_ += sequence.num_prompt_tokens;
  const std::vector<int32_t>& stop_ids = sequence.sampling.stop_token_ids;
  if (std::find(stop_ids.begin(), stop_ids.end(), *row.token) != stop_ids.end()) {
    return End(sequence, {.reason = FinishReason::kStop, .stop_token_id = *row.token});
  }
  MeasureToken(sequence, now);
  sequence.tokens.push_back(*row.token);
  said_.push_back(
      {.stream = sequence.stream, .token = row.token, .logprobs = std::move(row.logprobs)});
  ++generated_tokens_;
  const size_t unread = sequence.stream->unread() + 1;  // all before it were delivered
  if (sequence.length() == sequence.max_length) {
    End(sequence, {.reason = FinishReason::kLength});
  } else if (unread > static_cast<size_t>(options_.max_unread)) {
    End(sequence, {.status = absl::ResourceExhaustedError(absl::StrCat(
                       "the client reads too slowly: ", unread, " tokens wait for it"))});
  }
}

void Engine::Impl::MeasureToken(Sequence& sequence, absl::Time now) {
  const absl::Time before = std::exchange(sequence.last_token, now);
  if (before == absl::InfinitePast()) {
    times_.first_token.Observe(now - sequence.submitted);
  } else {
    times_.between_tokens.Observe(now - before);
  }
}

void Engine::Impl::End(const Sequence& sequence, TokenDelta last) {
  last.usage = {.prompt_tokens = sequence.num_prompt_tokens,
                .completion_tokens = sequence.num_output_tokens()};
  times_.whole.Observe(absl::Now() - sequence.submitted);
  ++(!last.status.ok() ? failed_ : last.reason == FinishReason::kStop ? stopped_ : reached_length_);
  said_.push_back({.stream = sequence.stream, .last = std::move(last)});
  scheduler_.Remove(sequence);
}

// Publishes first: who has a token sees its sequence running, and who sees the end finds its blocks
// given back.
void Engine::Impl::Deliver() {
  Publish();
  for (Said& said : said_) {
    if (!said.prompt_logprobs.empty()) said.stream->PushPrompt(std::move(said.prompt_logprobs));
    if (said.token.has_value()) said.stream->Push(*said.token, std::move(said.logprobs));
    if (said.last.has_value()) said.stream->Finish(*std::move(said.last));
  }
  said_.clear();
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
  Deliver();
}

void Engine::Impl::FlushPrefixCache() {
  const std::lock_guard lock(mutex_);
  flush_prefixes_ = true;  // an engine that sleeps has time: it looks before it schedules
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
               .block_size = runner_.block_size(),
               .prompt_tokens = prompt_tokens_,
               .generated_tokens = generated_tokens_,
               .preemptions = scheduler_.num_preemptions(),
               .stopped = stopped_,
               .reached_length = reached_length_,
               .failed = failed_,
               .prefix_lookup_tokens = scheduler_.num_lookup_tokens(),
               .prefix_hit_tokens = scheduler_.num_hit_tokens()};
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

absl::StatusOr<std::shared_ptr<RequestStream>> Engine::Submit(const GenerateRequest& request) {
  absl::StatusOr<Streams> streams = impl_->Submit(request, 1);
  if (!streams.ok()) return streams.status();
  return std::move(streams->front());
}
absl::StatusOr<Engine::Streams> Engine::SubmitChoices(const GenerateRequest& request,
                                                      int32_t num_choices) {
  return impl_->Submit(request, num_choices);
}
void Engine::Run() { impl_->Run(); }
void Engine::FlushPrefixCache() { impl_->FlushPrefixCache(); }
void Engine::Shutdown() { impl_->Shutdown(); }
const RequestTimes& Engine::times() const { return impl_->times(); }
EngineSnapshot Engine::Snapshot() const { return impl_->Snapshot(); }

}  // namespace intermix
