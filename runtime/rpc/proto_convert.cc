#include "runtime/rpc/proto_convert.h"

#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"

namespace intermix {
namespace {

constexpr uint32_t kMaxInt32 = std::numeric_limits<int32_t>::max();
constexpr size_t kMaxRequestIdBytes = 256;

absl::Status CheckFits(const char* field, uint32_t value) {
  if (value <= kMaxInt32) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(field, " is ", value, "; it must be at most ", kMaxInt32));
}

absl::StatusOr<std::vector<int32_t>> Ids(const char* field,
                                         const google::protobuf::RepeatedField<uint32_t>& ids) {
  std::vector<int32_t> out;
  out.reserve(ids.size());
  for (uint32_t id : ids) {
    if (absl::Status s = CheckFits(field, id); !s.ok()) return s;
    out.push_back(static_cast<int32_t>(id));
  }
  return out;
}

absl::StatusOr<std::vector<int32_t>> Prompt(const v1::GenerateRequest& proto,
                                            const FrontModel& model) {
  switch (proto.prompt_case()) {
    case v1::GenerateRequest::kText:
      return EncodePrompt(model, proto.text(),
                          !proto.has_add_special_tokens() || proto.add_special_tokens());
    case v1::GenerateRequest::kTokenIds:
      if (proto.token_ids().ids().empty()) {
        return absl::InvalidArgumentError("token_ids is empty; a prompt needs at least one token");
      }
      return Ids("token_ids", proto.token_ids().ids());
    case v1::GenerateRequest::PROMPT_NOT_SET:
      break;
  }
  return absl::InvalidArgumentError("prompt is missing; set text or token_ids");
}

absl::StatusOr<SamplingParams> Sampling(const v1::SamplingParams& proto) {
  SamplingParams sampling;
  if (proto.has_temperature()) sampling.temperature = proto.temperature();
  if (proto.has_top_k()) {
    if (absl::Status s = CheckFits("top_k", proto.top_k()); !s.ok()) return s;
    sampling.top_k = static_cast<int32_t>(proto.top_k());
  }
  if (proto.has_top_p()) sampling.top_p = proto.top_p();
  sampling.seed = proto.has_seed() ? proto.seed() : DrawSeed();
  if (proto.has_max_tokens()) {
    if (absl::Status s = CheckFits("max_tokens", proto.max_tokens()); !s.ok()) return s;
    sampling.max_tokens = static_cast<int32_t>(proto.max_tokens());
  }
  sampling.ignore_eos = proto.ignore_eos();
  absl::StatusOr<std::vector<int32_t>> stops = Ids("stop_token_ids", proto.stop_token_ids());
  if (!stops.ok()) return stops.status();
  sampling.stop_token_ids = *std::move(stops);
  return sampling;
}

}  // namespace

absl::StatusOr<GenerateRequest> FromProto(const v1::GenerateRequest& proto,
                                          const FrontModel& model) {
  if (proto.request_id().size() > kMaxRequestIdBytes) {
    return absl::InvalidArgumentError(absl::StrCat("request_id has ", proto.request_id().size(),
                                                   " bytes; it may have at most ",
                                                   kMaxRequestIdBytes));
  }
  GenerateRequest request;
  absl::StatusOr<SamplingParams> sampling = Sampling(proto.sampling());
  if (!sampling.ok()) return sampling.status();
  request.sampling = *std::move(sampling);
  AddEosTokens(model, request.sampling);
  absl::StatusOr<std::vector<int32_t>> prompt = Prompt(proto, model);
  if (!prompt.ok()) return prompt.status();
  request.prompt = *std::move(prompt);
  return request;
}

v1::GenerateResponse DeltaToProto(const std::vector<int32_t>& tokens, std::string text) {
  v1::GenerateResponse response;
  v1::Delta* delta = response.mutable_delta();
  delta->mutable_token_ids()->Add(tokens.begin(), tokens.end());
  delta->set_text(std::move(text));
  return response;
}

v1::GenerateResponse CompletionToProto(const TokenDelta& last, uint64_t seed) {
  v1::GenerateResponse response;
  v1::Completion* completion = response.mutable_completion();
  completion->set_finish_reason(last.reason == FinishReason::kStop ? v1::FINISH_REASON_STOP
                                                                   : v1::FINISH_REASON_LENGTH);
  if (last.stop_token_id.has_value()) completion->set_matched_stop_token_id(*last.stop_token_id);
  completion->mutable_usage()->set_prompt_tokens(last.usage.prompt_tokens);
  completion->mutable_usage()->set_completion_tokens(last.usage.completion_tokens);
  completion->set_seed(seed);
  return response;
}

v1::Layout LayoutToProto(const ParallelLayout& layout) {
  v1::Layout proto;
  proto.set_world(layout.world);
  proto.set_dp(layout.dp);
  proto.set_tp(layout.tp);
  proto.set_ep(layout.ep);
  proto.set_etp(layout.etp);
  return proto;
}

v1::EngineInfo EngineToProto(const EngineSnapshot& snapshot, const EngineOptions& options) {
  v1::EngineInfo proto;
  proto.set_step(snapshot.step);
  proto.set_running(snapshot.running);
  proto.set_waiting(snapshot.waiting);
  proto.set_max_running(options.max_running);
  proto.set_max_queue(options.max_queue);
  proto.set_free_kv_blocks(snapshot.free_blocks);
  proto.set_total_kv_blocks(snapshot.total_blocks);
  proto.set_prompt_tokens(snapshot.prompt_tokens);
  proto.set_generated_tokens(snapshot.generated_tokens);
  return proto;
}

google::protobuf::Duration DurationToProto(absl::Duration duration) {
  google::protobuf::Duration proto;
  proto.set_seconds(absl::IDivDuration(duration, absl::Seconds(1), &duration));
  proto.set_nanos(static_cast<int32_t>(absl::ToInt64Nanoseconds(duration)));
  return proto;
}

absl::Duration DurationFromProto(const google::protobuf::Duration& proto) {
  return absl::Seconds(proto.seconds()) + absl::Nanoseconds(proto.nanos());
}

grpc::Status ToGrpc(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  return grpc::Status(static_cast<grpc::StatusCode>(status.raw_code()),
                      std::string(status.message()));
}

absl::Status FromGrpc(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  return absl::Status(static_cast<absl::StatusCode>(status.error_code()), status.error_message());
}

}  // namespace intermix
