#include "runtime/rpc/generate_call.h"

#include <utility>

#include "runtime/rpc/proto_convert.h"

namespace intermix {
namespace {

grpc::ByteBuffer ToByteBuffer(const v1::GenerateResponse& message) {
  const grpc::Slice slice(message.SerializeAsString());
  return grpc::ByteBuffer(&slice, 1);
}

}  // namespace

GenerateCall::GenerateCall(std::shared_ptr<RequestStream> stream, Detokenizer detokenizer,
                           uint64_t seed, std::atomic<int>& num_open)
    : stream_(std::move(stream)),
      seed_(seed),
      num_open_(num_open),
      detokenizer_(std::move(detokenizer)) {
  ++num_open_;
}

GenerateCall* GenerateCall::Start(std::shared_ptr<RequestStream> stream, Detokenizer detokenizer,
                                  uint64_t seed, DeliveryThread& delivery,
                                  std::atomic<int>& num_open) {
  const std::shared_ptr<GenerateCall> call(
      new GenerateCall(std::move(stream), std::move(detokenizer), seed, num_open));
  call->self_ = call;
  const std::weak_ptr<Deliverable> weak = call;
  call->stream_->OnReady([weak, &delivery] { delivery.Post(weak); });
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
  if (!end_.has_value()) {
    TokenDelta delta = stream_->Next(absl::InfinitePast());
    if (!delta.finished && delta.tokens.empty()) return {};
    std::string text;
    for (int32_t token : delta.tokens) text += detokenizer_.Add(token);
    if (delta.finished) {
      text += detokenizer_.Flush();
      end_ = delta;
    }
    if (!delta.tokens.empty() || !text.empty()) {
      message_ = ToByteBuffer(DeltaToProto(delta.tokens, std::move(text)));
      writing_ = true;
      return {Action::Kind::kWrite, grpc::Status::OK};
    }
  }
  finishing_ = true;
  if (!end_->status.ok()) return {Action::Kind::kFinish, ToGrpc(end_->status)};
  message_ = ToByteBuffer(CompletionToProto(*end_, seed_));
  return {Action::Kind::kWriteAndFinish, grpc::Status::OK};
}

void GenerateCall::OnWriteDone(bool ok) {
  {
    const std::lock_guard lock(mutex_);
    writing_ = false;
    if (!ok) cancelled_ = true;
  }
  if (!ok) stream_->Cancel();
  Deliver();
}

void GenerateCall::OnCancel() {
  stream_->Cancel();
  {
    const std::lock_guard lock(mutex_);
    cancelled_ = true;
  }
  Deliver();
}

void GenerateCall::OnDone() {
  --num_open_;
  self_.reset();
}

}  // namespace intermix
