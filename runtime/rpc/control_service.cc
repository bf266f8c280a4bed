#include "runtime/rpc/control_service.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "runtime/rpc/attend_call.h"
#include "runtime/rpc/proto_convert.h"
#include "runtime/rpc/stats_call.h"
#include "runtime/tokenizer/detokenizer.h"

namespace intermix {
namespace {

grpc::ServerUnaryReactor* Answer(grpc::CallbackServerContext* context, const absl::Status& status) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(ToGrpc(status));
  return reactor;
}

// A WatchStats that is over before it began.
class RefusedWatch final : public grpc::ServerWriteReactor<v1::Stats> {
 public:
  explicit RefusedWatch(const absl::Status& status) { Finish(ToGrpc(status)); }
  void OnDone() override { delete this; }
};

absl::Status CheckInterval(const char* field, absl::Duration value, absl::Duration least,
                           absl::Duration most) {
  if (value >= least && value <= most) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(field, " is ", absl::FormatDuration(value),
                                                 "; it must be ", absl::FormatDuration(least),
                                                 " to ", absl::FormatDuration(most)));
}

}  // namespace

ControlService::ControlService(std::string version, std::string job_id, ClusterTable& table,
                               LiveRequests& live, TaskPool& pool, ControlActions actions)
    : version_(std::move(version)),
      job_id_(std::move(job_id)),
      table_(table),
      live_(live),
      pool_(pool),
      actions_(std::move(actions)) {}

void ControlService::Open(const v1::ModelInfo& info, const EngineOptions& options, Engine& engine,
                          const FrontModel& model) {
  const std::lock_guard lock(mutex_);
  loaded_ = std::make_shared<const Loaded>(
      Loaded{.info = info, .options = options, .engine = &engine, .model = model});
}

void ControlService::SetServing(bool serving) {
  const std::lock_guard lock(mutex_);
  serving_ = serving;
}

bool ControlService::serving() const {
  const std::lock_guard lock(mutex_);
  return serving_;
}

absl::StatusOr<std::shared_ptr<const ControlService::Loaded>> ControlService::GetLoaded() const {
  const std::lock_guard lock(mutex_);
  if (loaded_ != nullptr) return loaded_;
  return absl::UnavailableError("the model is still loading; try again later");
}

v1::Stats ControlService::Sample() const {
  v1::Stats stats;
  stats.set_serving(serving());
  *stats.mutable_cluster() = table_.Snapshot();
  if (const auto loaded = GetLoaded(); loaded.ok()) {
    *stats.mutable_engine() = EngineToProto((*loaded)->engine->Snapshot(), (*loaded)->options);
  }
  return stats;
}

grpc::ServerUnaryReactor* ControlService::GetServerInfo(Context* context,
                                                        const v1::GetServerInfoRequest*,
                                                        v1::GetServerInfoResponse* response) {
  response->set_version(version_);
  *response->mutable_uptime() =
      DurationToProto(absl::FromChrono(ClusterTable::Clock::now() - started_));
  response->set_serving(serving());
  if (const auto loaded = GetLoaded(); loaded.ok()) {
    *response->mutable_model() = (*loaded)->info;
    *response->mutable_engine() = EngineToProto((*loaded)->engine->Snapshot(), (*loaded)->options);
  }
  return Answer(context, absl::OkStatus());
}

grpc::ServerUnaryReactor* ControlService::GetCluster(Context* context, const v1::GetClusterRequest*,
                                                     v1::GetClusterResponse* response) {
  *response = table_.Snapshot();
  return Answer(context, absl::OkStatus());
}

grpc::ServerUnaryReactor* ControlService::GetModelInfo(Context* context,
                                                       const v1::GetModelInfoRequest*,
                                                       v1::GetModelInfoResponse* response) {
  const auto loaded = GetLoaded();
  if (!loaded.ok()) return Answer(context, loaded.status());
  const FrontModel& model = (*loaded)->model;
  *response->mutable_model() = (*loaded)->info;
  if (model.bos_token_id >= 0) response->set_bos_token_id(model.bos_token_id);
  response->mutable_eos_token_ids()->Add(model.eos_token_ids.begin(), model.eos_token_ids.end());
  response->set_max_prompt_bytes(model.max_prompt_bytes);
  response->set_max_n(Engine::kMaxChoices);
  response->set_max_logprobs(SamplingParams::kMaxLogprobs);
  return Answer(context, absl::OkStatus());
}

grpc::ServerUnaryReactor* ControlService::GetLoad(Context* context, const v1::GetLoadRequest*,
                                                  v1::GetLoadResponse* response) {
  const auto loaded = GetLoaded();
  if (!loaded.ok()) return Answer(context, loaded.status());
  *response->mutable_engine() = EngineToProto((*loaded)->engine->Snapshot(), (*loaded)->options);
  response->set_open_streams(live_.size());
  response->set_serving(serving());
  return Answer(context, absl::OkStatus());
}

grpc::ServerWriteReactor<v1::Stats>* ControlService::WatchStats(
    Context*, const v1::WatchStatsRequest* request) {
  absl::Duration interval = absl::Seconds(1);
  if (request->has_interval()) interval = DurationFromProto(request->interval());
  const absl::Status status =
      CheckInterval("interval", interval, absl::Milliseconds(100), absl::Hours(1));
  if (!status.ok()) return new RefusedWatch(status);
  if (num_watches_.fetch_add(1) >= kMaxWatches) {
    --num_watches_;
    return new RefusedWatch(absl::ResourceExhaustedError(
        absl::StrCat(kMaxWatches, " clients watch already; try again later")));
  }
  return new StatsCall(
      interval, [this] { return Sample(); }, [this] { --num_watches_; });
}

grpc::ServerUnaryReactor* ControlService::AnswerLater(Context* context, size_t bytes,
                                                      std::function<absl::Status()> work) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  const bool posted =
      pool_.Post(bytes, [reactor, work = std::move(work)] { reactor->Finish(ToGrpc(work())); });
  if (!posted) {
    reactor->Finish(ToGrpc(absl::ResourceExhaustedError(
        "too many requests wait to be tokenised already; try again later")));
  }
  return reactor;
}

grpc::ServerUnaryReactor* ControlService::Tokenize(Context* context,
                                                   const v1::TokenizeRequest* request,
                                                   v1::TokenizeResponse* response) {
  const auto loaded = GetLoaded();
  if (!loaded.ok()) return Answer(context, loaded.status());
  return AnswerLater(context, request->text().size(), [request, response, loaded = *loaded] {
    const absl::StatusOr<std::vector<int32_t>> ids =
        EncodePrompt(loaded->model, request->text(),
                     !request->has_add_special_tokens() || request->add_special_tokens());
    if (ids.ok()) response->mutable_token_ids()->Add(ids->begin(), ids->end());
    return ids.status();
  });
}

grpc::ServerUnaryReactor* ControlService::Detokenize(Context* context,
                                                     const v1::DetokenizeRequest* request,
                                                     v1::DetokenizeResponse* response) {
  const auto loaded = GetLoaded();
  if (!loaded.ok()) return Answer(context, loaded.status());
  const int32_t max_ids = (*loaded)->info.max_context();
  if (request->token_ids_size() > max_ids) {
    return Answer(context, absl::InvalidArgumentError(
                               absl::StrCat("token_ids holds ", request->token_ids_size(),
                                            " ids; at most ", max_ids, " are allowed")));
  }
  const uint32_t vocab_size = (*loaded)->info.vocab_size();
  for (uint32_t id : request->token_ids()) {
    if (id < vocab_size) continue;
    return Answer(context,
                  absl::InvalidArgumentError(absl::StrCat(
                      "token_ids holds ", id, "; the vocabulary has ids 0 to ", vocab_size - 1)));
  }
  const size_t bytes = sizeof(uint32_t) * static_cast<size_t>(request->token_ids_size());
  return AnswerLater(context, bytes, [request, response, loaded = *loaded] {
    const std::vector<int32_t> ids(request->token_ids().begin(), request->token_ids().end());
    response->set_text(ValidUtf8(loaded->model.tokenizer->Decode(ids)));
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* ControlService::Abort(Context* context, const v1::AbortRequest* request,
                                                v1::AbortResponse* response) {
  if (request->which_case() == v1::AbortRequest::kRequestId && !request->request_id().empty()) {
    response->set_aborted(live_.Abort(request->request_id()));
  } else if (request->all()) {
    response->set_aborted(live_.AbortAll());
  } else {
    return Answer(context, absl::InvalidArgumentError("request_id is empty; set it, or all"));
  }
  return Answer(context, absl::OkStatus());
}

grpc::ServerUnaryReactor* ControlService::Drain(Context* context, const v1::DrainRequest*,
                                                v1::DrainResponse* response) {
  const absl::Status status = actions_.drain();
  response->set_open_streams(live_.size());
  return Answer(context, status);
}

grpc::ServerUnaryReactor* ControlService::Resume(Context* context, const v1::ResumeRequest*,
                                                 v1::ResumeResponse*) {
  return Answer(context, actions_.resume());
}

grpc::ServerUnaryReactor* ControlService::Shutdown(Context* context,
                                                   const v1::ShutdownRequest* request,
                                                   v1::ShutdownResponse*) {
  const absl::Duration grace = DurationFromProto(request->grace());
  const absl::Status status = CheckInterval("grace", grace, absl::ZeroDuration(), absl::Hours(24));
  if (status.ok()) actions_.shut_down(grace);
  return Answer(context, status);
}

grpc::ServerUnaryReactor* ControlService::SetLogLevel(Context* context,
                                                      const v1::SetLogLevelRequest* request,
                                                      v1::SetLogLevelResponse*) {
  const std::string& level = request->level();
  for (const char* known : {"trace", "debug", "info", "warning", "error", "off"}) {
    if (level != known) continue;
    const std::lock_guard lock(mutex_);
    log_level_ = level;
    return Answer(context, absl::OkStatus());
  }
  return Answer(context, absl::InvalidArgumentError(absl::StrCat(
                             "level is '", level,
                             "'; it must be trace, debug, info, warning, error or off")));
}

grpc::ServerUnaryReactor* ControlService::FlushPrefixCache(Context* context,
                                                           const v1::FlushPrefixCacheRequest*,
                                                           v1::FlushPrefixCacheResponse*) {
  const auto loaded = GetLoaded();
  if (loaded.ok()) (*loaded)->engine->FlushPrefixCache();
  return Answer(context, loaded.status());
}

absl::Status ControlService::CheckJob(const std::string& job_id) const {
  if (job_id == job_id_) return absl::OkStatus();
  return absl::PermissionDeniedError("job_id is not that of this job; only its ranks may report");
}

grpc::ServerUnaryReactor* ControlService::Register(Context* context,
                                                   const v1::RegisterRequest* request,
                                                   v1::RegisterResponse*) {
  absl::Status status = CheckJob(request->job_id());
  if (status.ok()) status = table_.Register(request->info());
  return Answer(context, status);
}

grpc::ServerUnaryReactor* ControlService::Heartbeat(Context* context,
                                                    const v1::HeartbeatRequest* request,
                                                    v1::HeartbeatResponse* response) {
  absl::Status status = CheckJob(request->job_id());
  if (status.ok() && request->stop_requested()) actions_.stop();
  if (status.ok()) {
    status = table_.Heartbeat(request->rank(), request->status(), request->leaving());
  }
  const std::lock_guard lock(mutex_);
  response->set_log_level(log_level_);
  return Answer(context, status);
}

grpc::ServerReadReactor<v1::AttendRequest>* ControlService::Attend(Context*, v1::AttendResponse*) {
  return new AttendCall(table_, [this](const std::string& job_id) { return CheckJob(job_id); });
}

}  // namespace intermix
