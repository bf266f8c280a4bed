#include "runtime/rpc/inference_service.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "runtime/rpc/proto_convert.h"

namespace intermix {
namespace {

// A call that is over before it began.
class RefusedCall final : public grpc::ServerWriteReactor<grpc::ByteBuffer> {
 public:
  RefusedCall(const absl::Status& status, const RequestObserver& on_end, std::string traceparent)
      : on_end_(on_end), record_({.traceparent = std::move(traceparent), .status = status}) {
    Finish(ToGrpc(status));
  }
  void OnDone() override {
    if (on_end_) on_end_(record_);
    delete this;
  }

 private:
  const RequestObserver on_end_;
  const RequestRecord record_;
};

absl::StatusOr<v1::GenerateRequest> Parse(const grpc::ByteBuffer& bytes) {
  grpc::ByteBuffer copy = bytes;  // Deserialize consumes it; the slices are shared
  v1::GenerateRequest request;
  if (!grpc::SerializationTraits<v1::GenerateRequest>::Deserialize(&copy, &request).ok()) {
    return absl::InvalidArgumentError(
        "the request is not a GenerateRequest; text and request_id must be valid UTF-8");
  }
  return request;
}

std::string TraceparentOf(const grpc::CallbackServerContext& context) {
  const auto it = context.client_metadata().find("traceparent");
  if (it == context.client_metadata().end()) return "";
  return ValidTraceparent({it->second.data(), it->second.size()});
}

}  // namespace

void InferenceService::Open(Engine& engine, const FrontModel& model) {
  const std::lock_guard lock(mutex_);
  backing_ = std::make_shared<const Backing>(Backing{.engine = &engine, .model = model});
  open_ = true;
}

void InferenceService::Close(const std::string& why) {
  const std::lock_guard lock(mutex_);
  closed_because_ = why;
  open_ = false;
}

void InferenceService::Reopen() {
  const std::lock_guard lock(mutex_);
  open_ = true;
}

absl::StatusOr<std::shared_ptr<const InferenceService::Backing>> InferenceService::GetOpen() const {
  const std::lock_guard lock(mutex_);
  if (!open_) return absl::UnavailableError(closed_because_);
  return backing_;
}

absl::StatusOr<GenerateCall::Request> InferenceService::Submit(const grpc::ByteBuffer& bytes,
                                                               absl::Time deadline,
                                                               GenerateCall& call) {
  const auto backing = GetOpen();
  if (!backing.ok()) return backing.status();
  const FrontModel& model = (*backing)->model;
  const absl::StatusOr<v1::GenerateRequest> proto = Parse(bytes);
  if (!proto.ok()) return proto.status();
  const std::string& id = proto->request_id();
  const std::string number = absl::StrCat("#", ++num_requests_);
  call.Identify(id, id.empty() ? number : id);
  absl::StatusOr<GenerateRequest> request = FromProto(*proto, model);
  if (!request.ok()) return request.status();
  request->id = id + number;
  request->deadline = deadline;
  const absl::StatusOr<int32_t> num_choices = NumChoices(*proto);
  if (!num_choices.ok()) return num_choices.status();
  const absl::StatusOr<Engine::Streams> streams =
      (*backing)->engine->SubmitChoices(*request, *num_choices);
  if (!streams.ok()) return streams.status();
  return GenerateCall::Request{.streams = *streams,
                               .answer = AnswerBuilder(*model.tokenizer, *request),
                               .seed = request->sampling.seed,
                               .prompt_tokens = static_cast<int32_t>(request->prompt.size())};
}

grpc::ServerWriteReactor<grpc::ByteBuffer>* InferenceService::Generate(
    grpc::CallbackServerContext* context, const grpc::ByteBuffer* bytes) {
  const std::string traceparent = TraceparentOf(*context);
  if (const auto backing = GetOpen(); !backing.ok()) {
    return new RefusedCall(backing.status(), on_end_, traceparent);
  }
  const absl::Time deadline = absl::FromChrono(context->deadline());
  const std::shared_ptr<GenerateCall> call = GenerateCall::Start(
      live_, {.traceparent = traceparent, .deadline = deadline, .on_end = on_end_});
  if (call == nullptr) {
    return new RefusedCall(
        absl::ResourceExhaustedError(absl::StrCat(
            live_.limit(),
            " calls are open already, also those that ended and whose clients have not ",
            "read the end; try again later")),
        on_end_, traceparent);
  }
  const bool posted = pool_.Post(bytes->Length(), [this, call, deadline, copy = *bytes] {
    if (call->over()) return;
    const absl::StatusOr<GenerateCall::Request> request = Submit(copy, deadline, *call);
    if (!request.ok()) return call->Fail(request.status());
    call->Begin(*request, delivery_);
  });
  if (!posted) {
    call->Fail(absl::ResourceExhaustedError(
        "too many requests wait to be tokenised already; try again later"));
  }
  return call.get();
}

}  // namespace intermix
