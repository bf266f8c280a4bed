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

GenerateCall::GenerateCall(const std::string& id, const Engine::Streams& streams,
                           const AnswerBuilder& answer, uint64_t seed, LiveRequests& live)
    : seed_(seed), live_(live), live_number_(live.Add(id, streams)) {
  for (const std::shared_ptr<RequestStream>& stream : streams) {
    choices_.push_back({stream, answer, static_cast<uint32_t>(choices_.size())});
  }
}

GenerateCall* GenerateCall::Start(const std::string& id, const Engine::Streams& streams,
                                  const AnswerBuilder& answer, uint64_t seed,
                                  DeliveryThread& delivery, LiveRequests& live) {
  const std::shared_ptr<GenerateCall> call(new GenerateCall(id, streams, answer, seed, live));
  call->self_ = call;
  const std::weak_ptr<Deliverable> weak = call;
  for (const std::shared_ptr<RequestStream>& stream : streams) {
    stream->OnReady([weak, &delivery] { delivery.Post(weak); });
  }
  return call.get();
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
  if (cancelled_) {
    finishing_ = true;
    return {Action::Kind::kFinish, grpc::Status::CANCELLED};
  }
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
  if (part.delta.finished) {
    choice.end = part.delta;
    choice.stream->Cancel();  // a stop string ends it before the engine does
  }
  if (!part.has_content()) return EndOf(choice);
  message_ = ToByteBuffer(DeltaToProto(part, choice.index));
  writing_ = true;
  return {Action::Kind::kWrite, grpc::Status::OK};
}

// One answer that fails ends them all.
GenerateCall::Action GenerateCall::EndOf(Choice& choice) {
  if (!choice.end->status.ok()) {
    finishing_ = true;
    CancelStreams();
    return {Action::Kind::kFinish, ToGrpc(choice.end->status)};
  }
  choice.done = true;
  message_ = ToByteBuffer(CompletionToProto(*choice.end, seed_, choice.index));
  finishing_ =
      std::all_of(choices_.begin(), choices_.end(), [](const Choice& c) { return c.done; });
  writing_ = !finishing_;
  return {finishing_ ? Action::Kind::kWriteAndFinish : Action::Kind::kWrite, grpc::Status::OK};
}

void GenerateCall::CancelStreams() {
  for (const Choice& choice : choices_) choice.stream->Cancel();
}

void GenerateCall::OnWriteDone(bool ok) {
  {
    const std::lock_guard lock(mutex_);
    writing_ = false;
    if (!ok) cancelled_ = true;
  }
  if (!ok) CancelStreams();
  Deliver();
}

void GenerateCall::OnCancel() {
  CancelStreams();
  {
    const std::lock_guard lock(mutex_);
    cancelled_ = true;
  }
  Deliver();
}

void GenerateCall::OnDone() {
  live_.Remove(live_number_);
  self_.reset();
}

}  // namespace intermix
