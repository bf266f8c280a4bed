#include "runtime/rpc/generate_call.h"

#include <algorithm>
#include <utility>

#include "runtime/rpc/proto_convert.h"

namespace intermix {
namespace {

grpc::ByteBuffer ToByteBuffer(const v1::GenerateResponse& message) {
  const grpc::Slice slice(message.SerializeAsString());
  return grpc::ByteBuffer(&slice, 1);
}

}  // namespace

absl::Status WhyCancelled(absl::Time started, absl::Time deadline, absl::Time now) {
  const absl::Duration early = absl::Milliseconds(20) + (deadline - started) / 100;
  return now < deadline - early ? absl::CancelledError("the client cancelled, or is gone")
                                : absl::DeadlineExceededError("the request's deadline passed");
}

std::shared_ptr<GenerateCall> GenerateCall::Start(LiveRequests& live, Options options) {
  std::shared_ptr<GenerateCall> call(new GenerateCall(live, std::move(options)));
  const std::optional<uint64_t> number = live.Add(call);
  if (!number.has_value()) return nullptr;
  call->live_number_ = *number;
  call->self_ = call;
  return call;
}

void GenerateCall::Identify(const std::string& id, const std::string& log_id) {
  live_.SetId(live_number_, id);
  const std::lock_guard lock(mutex_);
  log_id_ = log_id;
}

void GenerateCall::Begin(const Request& request, DeliveryThread& delivery) {
  {
    const std::lock_guard lock(mutex_);
    seed_ = request.seed;
    prompt_tokens_ = request.prompt_tokens;
    for (const std::shared_ptr<RequestStream>& stream : request.streams) {
      choices_.push_back({stream, request.answer, static_cast<uint32_t>(choices_.size())});
    }
    if (finishing_ || aborted_) CancelStreams();
  }
  const std::weak_ptr<Deliverable> weak = weak_from_this();
  for (const std::shared_ptr<RequestStream>& stream : request.streams) {
    stream->OnReady([weak, &delivery] { delivery.Post(weak); });
  }
}

bool GenerateCall::over() {
  const std::lock_guard lock(mutex_);
  return finishing_;
}

void GenerateCall::Abort() {
  const std::lock_guard lock(mutex_);
  aborted_ = true;
  CancelStreams();
}

void GenerateCall::Fail(const absl::Status& status) {
  {
    const std::lock_guard lock(mutex_);
    if (failure_.ok()) failure_ = status;
    CancelStreams();
  }
  Deliver();
}

void GenerateCall::Deliver() {
  Action action;
  {
    const std::lock_guard lock(mutex_);
    action = NextAction();
  }
  switch (action.kind) {
    case Action::Kind::kNothing:
      return;
    case Action::Kind::kWrite:
      StartWrite(&message_);
      return;
    case Action::Kind::kWriteAndFinish:
      StartWriteAndFinish(&message_, grpc::WriteOptions(), grpc::Status::OK);
      return;
    case Action::Kind::kFinish:
      Finish(action.status);
      return;
  }
}

GenerateCall::Action GenerateCall::NextAction() {
  if (writing_ || finishing_) return {};
  if (cancelled_.has_value()) {
    return EndWith(WhyCancelled(started_, options_.deadline, *cancelled_));
  }
  if (!failure_.ok()) return EndWith(failure_);
  for (size_t i = 0; i < choices_.size(); ++i) {
    Choice& choice = choices_[next_choice_];
    next_choice_ = (next_choice_ + 1) % choices_.size();
    Action action = ActionFor(choice);
    if (action.kind != Action::Kind::kNothing) return action;
  }
  return {};
}

GenerateCall::Action GenerateCall::ActionFor(Choice& choice) {
  if (choice.done) return {};
  if (choice.end.has_value()) return EndOf(choice);
  TokenDelta delta = choice.stream->Next(absl::InfinitePast());
  if (delta.empty()) return {};
  const AnswerPart part = choice.answer.Take(std::move(delta));
  choice.tokens += static_cast<int32_t>(part.delta.tokens.size());
  if (choice.tokens > 0) first_token_ = std::min(first_token_, absl::Now());
  if (part.delta.finished) {
    choice.end = part.delta;
    choice.stream->HasEnough();  // a stop string ends it before the engine does
  }
  if (!part.has_content()) return EndOf(choice);
  message_ = ToByteBuffer(DeltaToProto(part, choice.index));
  writing_ = true;
  return {Action::Kind::kWrite, grpc::Status::OK};
}

// One answer that fails ends them all.
GenerateCall::Action GenerateCall::EndOf(Choice& choice) {
  if (!choice.end->status.ok()) {
    CancelStreams();
    return EndWith(choice.end->status);
  }
  choice.done = true;
  message_ = ToByteBuffer(CompletionToProto(*choice.end, seed_, choice.index));
  finishing_ =
      std::all_of(choices_.begin(), choices_.end(), [](const Choice& c) { return c.done; });
  writing_ = !finishing_;
  return {finishing_ ? Action::Kind::kWriteAndFinish : Action::Kind::kWrite, grpc::Status::OK};
}

GenerateCall::Action GenerateCall::EndWith(const absl::Status& status) {
  finishing_ = true;
  outcome_ = status;
  return {Action::Kind::kFinish, ToGrpc(status)};
}

void GenerateCall::CancelStreams() {
  for (const Choice& choice : choices_) choice.stream->Cancel();
}

void GenerateCall::NoteCancelled() {
  if (!cancelled_.has_value()) cancelled_ = absl::Now();
}

void GenerateCall::OnWriteDone(bool ok) {
  {
    const std::lock_guard lock(mutex_);
    writing_ = false;
    if (!ok) {
      NoteCancelled();
      CancelStreams();
    }
  }
  Deliver();
}

void GenerateCall::OnCancel() {
  {
    const std::lock_guard lock(mutex_);
    NoteCancelled();
    CancelStreams();
  }
  Deliver();
}

RequestRecord GenerateCall::Record() {
  const std::lock_guard lock(mutex_);
  RequestRecord record = {.id = log_id_,
                          .traceparent = options_.traceparent,
                          .prompt_tokens = prompt_tokens_,
                          .total = absl::Now() - started_,
                          .status = outcome_};
  if (first_token_ != absl::InfiniteFuture()) record.first_token = first_token_ - started_;
  for (const Choice& choice : choices_) {
    record.output_tokens += choice.tokens;
    if (choice.end.has_value() && choice.end->reason.has_value()) {
      record.finish_reasons.push_back(*choice.end->reason);
    }
  }
  if (choices_.empty()) return record;
  if (const auto started = choices_.front().stream->started()) {
    record.queued = started->queued;
    record.cached_tokens = started->cached_tokens;
  }
  return record;
}

void GenerateCall::OnDone() {
  live_.Remove(live_number_);
  if (options_.on_end) options_.on_end(Record());
  self_.reset();
}

}  // namespace intermix
