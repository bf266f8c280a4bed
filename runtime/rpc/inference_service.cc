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
  explicit RefusedCall(const absl::Status& status) { Finish(ToGrpc(status)); }
  void OnDone() override { delete this; }
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

}  // namespace

void InferenceService::Open(Engine& engine, const FrontModel& model) {
  backing_ = std::make_unique<const Backing>(Backing{.engine = &engine, .model = model});
  open_ = backing_.get();
}

void InferenceService::Close(const char* why) {
  closed_because_ = why;
  open_ = nullptr;
}

void InferenceService::Reopen() { open_ = backing_.get(); }

absl::StatusOr<GenerateCall*> InferenceService::Submit(const grpc::CallbackServerContext& context,
                                                       const grpc::ByteBuffer& bytes) {
  const Backing* backing = open_;
  if (backing == nullptr) return absl::UnavailableError(closed_because_.load());
  const absl::StatusOr<v1::GenerateRequest> proto = Parse(bytes);
  if (!proto.ok()) return proto.status();
  absl::StatusOr<GenerateRequest> request = FromProto(*proto, backing->model);
  if (!request.ok()) return request.status();
  request->id = absl::StrCat(proto->request_id(), "#", ++num_requests_);
  request->deadline = absl::FromChrono(context.deadline());
  const absl::StatusOr<int32_t> num_choices = NumChoices(*proto);
  if (!num_choices.ok()) return num_choices.status();
  const absl::StatusOr<Engine::Streams> streams =
      backing->engine->SubmitChoices(*request, *num_choices);
  if (!streams.ok()) return streams.status();
  return GenerateCall::Start(proto->request_id(), *streams,
                             AnswerBuilder(*backing->model.tokenizer, *request),
                             request->sampling.seed, delivery_, live_);
}

grpc::ServerWriteReactor<grpc::ByteBuffer>* InferenceService::Generate(
    grpc::CallbackServerContext* context, const grpc::ByteBuffer* request) {
  const absl::StatusOr<GenerateCall*> call = Submit(*context, *request);
  if (!call.ok()) return new RefusedCall(call.status());
  return *call;
}

}  // namespace intermix
