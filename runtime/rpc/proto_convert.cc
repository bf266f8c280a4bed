#include "runtime/rpc/proto_convert.h"

#include <limits>
#include <optional>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "runtime/tokenizer/detokenizer.h"

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

absl::StatusOr<ChatPrompt> EncodeMessages(const v1::Chat& chat, const FrontModel& model) {
  std::vector<ChatMessage> messages;
  for (const v1::ChatMessage& message : chat.messages()) {
    messages.push_back({.role = message.role(), .content = message.content()});
  }
  return EncodeChatPrompt(model, messages);
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
    case v1::GenerateRequest::kChat:  // FromProto's business
    case v1::GenerateRequest::PROMPT_NOT_SET:
      break;
  }
  return absl::InvalidArgumentError("prompt is missing; set text, token_ids or chat");
}

// Where `set`: `value` as an int32_t.
absl::Status SetInt(const char* field, bool set, uint32_t value, int32_t* out) {
  if (!set) return absl::OkStatus();
  *out = static_cast<int32_t>(value);
  return CheckFits(field, value);
}

absl::Status SetInt(const char* field, bool set, uint32_t value, std::optional<int32_t>* out) {
  return set ? SetInt(field, true, value, &out->emplace()) : absl::OkStatus();
}

absl::Status SetIds(const char* field, const google::protobuf::RepeatedField<uint32_t>& ids,
                    std::vector<int32_t>* out) {
  absl::StatusOr<std::vector<int32_t>> all = Ids(field, ids);
  if (all.ok()) *out = *std::move(all);
  return all.status();
}

// What changes the distribution.
absl::Status SetChoosing(const v1::SamplingParams& proto, SamplingParams* sampling) {
  if (proto.has_temperature()) sampling->temperature = proto.temperature();
  if (proto.has_top_p()) sampling->top_p = proto.top_p();
  if (proto.has_min_p()) sampling->min_p = proto.min_p();
  if (proto.has_repetition_penalty()) sampling->repetition_penalty = proto.repetition_penalty();
  if (proto.has_presence_penalty()) sampling->presence_penalty = proto.presence_penalty();
  if (proto.has_frequency_penalty()) sampling->frequency_penalty = proto.frequency_penalty();
  absl::Status status = SetInt("top_k", proto.has_top_k(), proto.top_k(), &sampling->top_k);
  status.Update(
      SetIds("allowed_token_ids", proto.allowed_token_ids(), &sampling->allowed_token_ids));
  status.Update(SetIds("bad_token_ids", proto.bad_token_ids(), &sampling->bad_token_ids));
  for (const auto& [id, bias] : proto.logit_bias()) {
    status.Update(CheckFits("logit_bias", id));
    sampling->logit_bias.emplace_back(static_cast<int32_t>(id), bias);
  }
  return status;
}

absl::StatusOr<SamplingParams> Sampling(const v1::SamplingParams& proto) {
  SamplingParams sampling;
  absl::Status status = SetChoosing(proto, &sampling);
  sampling.seed = proto.has_seed() ? proto.seed() : DrawSeed();
  sampling.ignore_eos = proto.ignore_eos();
  sampling.stop = {proto.stop().begin(), proto.stop().end()};
  const auto set_int = [&](const char* field, bool set, uint32_t value, auto* out) {
    status.Update(SetInt(field, set, value, out));
  };
  set_int("max_tokens", proto.has_max_tokens(), proto.max_tokens(), &sampling.max_tokens);
  set_int("min_tokens", proto.has_min_tokens(), proto.min_tokens(), &sampling.min_tokens);
  set_int("logprobs", proto.has_logprobs(), proto.logprobs(), &sampling.logprobs);
  set_int("prompt_logprobs", proto.has_prompt_logprobs(), proto.prompt_logprobs(),
          &sampling.prompt_logprobs);
  status.Update(SetIds("stop_token_ids", proto.stop_token_ids(), &sampling.stop_token_ids));
  if (!status.ok()) return status;
  return sampling;
}

void AddLogprobs(const std::vector<TokenLogprobs>& from,
                 google::protobuf::RepeatedPtrField<v1::TokenLogprobs>* to) {
  for (const TokenLogprobs& logprobs : from) {
    v1::TokenLogprobs* out = to->Add();
    out->set_logprob(logprobs.logprob);
    for (const TokenLogprob& top : logprobs.top) {
      v1::TokenLogprob* out_top = out->add_top();
      out_top->set_token_id(top.token_id);
      out_top->set_logprob(top.logprob);
    }
  }
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
  request.priority = proto.priority();
  request.cache_salt = proto.cache_salt();
  absl::StatusOr<SamplingParams> sampling = Sampling(proto.sampling());
  if (!sampling.ok()) return sampling.status();
  request.sampling = *std::move(sampling);
  AddEosTokens(model, request.sampling);
  if (proto.has_chat()) {
    absl::StatusOr<ChatPrompt> chat = EncodeMessages(proto.chat(), model);
    if (!chat.ok()) return chat.status();
    request.prompt = std::move(chat->tokens);
    if (chat->turn_end.has_value() && !request.sampling.ignore_eos) {
      request.sampling.stop_token_ids.push_back(*chat->turn_end);
    }
    return request;
  }
  absl::StatusOr<std::vector<int32_t>> prompt = Prompt(proto, model);
  if (!prompt.ok()) return prompt.status();
  request.prompt = *std::move(prompt);
  return request;
}

absl::StatusOr<int32_t> NumChoices(const v1::GenerateRequest& proto) {
  int32_t n = 1;
  if (absl::Status s = SetInt("n", proto.sampling().has_n(), proto.sampling().n(), &n); !s.ok()) {
    return s;
  }
  return n;
}

v1::GenerateResponse DeltaToProto(const AnswerPart& part, uint32_t index) {
  v1::GenerateResponse response;
  v1::Delta* delta = response.mutable_delta();
  delta->mutable_token_ids()->Add(part.delta.tokens.begin(), part.delta.tokens.end());
  delta->set_text(part.text);
  delta->set_index(index);
  AddLogprobs(part.delta.logprobs, delta->mutable_logprobs());
  AddLogprobs(part.delta.prompt_logprobs, delta->mutable_prompt_logprobs());
  return response;
}

v1::GenerateResponse CompletionToProto(const TokenDelta& last, uint64_t seed, uint32_t index) {
  v1::GenerateResponse response;
  v1::Completion* completion = response.mutable_completion();
  completion->set_finish_reason(last.reason == FinishReason::kStop ? v1::FINISH_REASON_STOP
                                                                   : v1::FINISH_REASON_LENGTH);
  if (last.stop_token_id.has_value()) completion->set_matched_stop_token_id(*last.stop_token_id);
  if (last.stop.has_value()) completion->set_matched_stop_text(*last.stop);
  completion->mutable_usage()->set_prompt_tokens(last.usage.prompt_tokens);
  completion->mutable_usage()->set_completion_tokens(last.usage.completion_tokens);
  completion->set_seed(seed);
  completion->set_index(index);
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
  proto.set_kv_block_tokens(snapshot.block_size);
  proto.set_prompt_tokens(snapshot.prompt_tokens);
  proto.set_generated_tokens(snapshot.generated_tokens);
  proto.set_preemptions(snapshot.preemptions);
  proto.set_prefix_lookup_tokens(snapshot.prefix_lookup_tokens);
  proto.set_prefix_hit_tokens(snapshot.prefix_hit_tokens);
  return proto;
}

std::string PhaseText(v1::RankPhase phase) {
  const std::string name = v1::RankPhase_Name(phase);
  return absl::AsciiStrToLower(name.substr(std::string("RANK_PHASE_").size()));
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
  google::rpc::ErrorInfo info;
  info.set_reason(absl::StatusCodeToString(status.code()));
  info.set_domain("intermix");
  // Clients take few KB of trailers, and the message goes there twice.
  constexpr size_t kMaxMessage = 1024;
  const std::string message = ValidUtf8(std::string(status.message().substr(0, kMaxMessage)));
  google::rpc::Status details;
  details.set_code(status.raw_code());
  details.set_message(message);
  details.add_details()->PackFrom(info);
  return grpc::Status(static_cast<grpc::StatusCode>(status.raw_code()), message,
                      details.SerializeAsString());
}

absl::Status FromGrpc(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  return absl::Status(static_cast<absl::StatusCode>(status.error_code()), status.error_message());
}

}  // namespace intermix
