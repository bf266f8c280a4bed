#include "runtime/rpc/control_service.h"

#include <utility>

#include "runtime/rpc/proto_convert.h"

namespace intermix {
namespace {

grpc::ServerUnaryReactor* Answer(grpc::CallbackServerContext* context, const absl::Status& status) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(ToGrpc(status));
  return reactor;
}

}  // namespace

ControlService::ControlService(std::string version, std::string job_id, ClusterTable& table,
                               std::function<void()> on_stop_requested)
    : version_(std::move(version)),
      job_id_(std::move(job_id)),
      table_(table),
      on_stop_requested_(std::move(on_stop_requested)) {}

void ControlService::Open(const v1::ModelInfo& model, const EngineOptions& options,
                          const Engine& engine) {
  const std::lock_guard lock(mutex_);
  model_ = model;
  engine_options_ = options;
  engine_ = &engine;
  serving_ = true;
}

void ControlService::Close() {
  const std::lock_guard lock(mutex_);
  serving_ = false;
}

grpc::ServerUnaryReactor* ControlService::GetServerInfo(grpc::CallbackServerContext* context,
                                                        const v1::GetServerInfoRequest*,
                                                        v1::GetServerInfoResponse* response) {
  response->set_version(version_);
  *response->mutable_uptime() =
      DurationToProto(absl::FromChrono(ClusterTable::Clock::now() - started_));
  {
    const std::lock_guard lock(mutex_);
    response->set_serving(serving_);
    if (engine_ != nullptr) {
      *response->mutable_model() = model_;
      *response->mutable_engine() = EngineToProto(engine_->Snapshot(), engine_options_);
    }
  }
  return Answer(context, absl::OkStatus());
}

grpc::ServerUnaryReactor* ControlService::GetCluster(grpc::CallbackServerContext* context,
                                                     const v1::GetClusterRequest*,
                                                     v1::GetClusterResponse* response) {
  *response = table_.Snapshot();
  return Answer(context, absl::OkStatus());
}

absl::Status ControlService::CheckJob(const std::string& job_id) const {
  if (job_id == job_id_) return absl::OkStatus();
  return absl::PermissionDeniedError("job_id is not that of this job; only its ranks may report");
}

grpc::ServerUnaryReactor* ControlService::Register(grpc::CallbackServerContext* context,
                                                   const v1::RegisterRequest* request,
                                                   v1::RegisterResponse*) {
  absl::Status status = CheckJob(request->job_id());
  if (status.ok()) status = table_.Register(request->info());
  return Answer(context, status);
}

grpc::ServerUnaryReactor* ControlService::Heartbeat(grpc::CallbackServerContext* context,
                                                    const v1::HeartbeatRequest* request,
                                                    v1::HeartbeatResponse*) {
  absl::Status status = CheckJob(request->job_id());
  if (status.ok() && request->stop_requested()) on_stop_requested_();
  if (status.ok()) status = table_.Heartbeat(request->rank(), request->status());
  return Answer(context, status);
}

}  // namespace intermix
