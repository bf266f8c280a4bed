// ControlService: the server side of intermix.v1.Control: what the server is and does, and the
// table of ranks that their heartbeats fill. Thread-safe.
#pragma once

#include <functional>
#include <mutex>
#include <string>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "grpcpp/grpcpp.h"
#include "intermix/v1/control.grpc.pb.h"
#include "runtime/engine/engine.h"
#include "runtime/rpc/cluster_table.h"

namespace intermix {

class ControlService final : public v1::Control::CallbackService {
 public:
  // `job_id` is what ranks must show. `on_stop_requested` is called, on a gRPC thread, when a rank
  // says that it was asked to stop; it must return at once. `table` outlives the service.
  ControlService(std::string version, std::string job_id, ClusterTable& table,
                 std::function<void()> on_stop_requested);

  // The model is loaded. `engine` outlives the gRPC server.
  void Open(const v1::ModelInfo& model, const EngineOptions& options, const Engine& engine);
  void Close();  // GetServerInfo says that it serves no more

  grpc::ServerUnaryReactor* GetServerInfo(grpc::CallbackServerContext* context,
                                          const v1::GetServerInfoRequest* request,
                                          v1::GetServerInfoResponse* response) override;
  grpc::ServerUnaryReactor* GetCluster(grpc::CallbackServerContext* context,
                                       const v1::GetClusterRequest* request,
                                       v1::GetClusterResponse* response) override;
  grpc::ServerUnaryReactor* Register(grpc::CallbackServerContext* context,
                                     const v1::RegisterRequest* request,
                                     v1::RegisterResponse* response) override;
  grpc::ServerUnaryReactor* Heartbeat(grpc::CallbackServerContext* context,
                                      const v1::HeartbeatRequest* request,
                                      v1::HeartbeatResponse* response) override;

 private:
  absl::Status CheckJob(const std::string& job_id) const;

  const std::string version_;
  const std::string job_id_;
  ClusterTable& table_;
  const std::function<void()> on_stop_requested_;
  const ClusterTable::Clock::time_point started_ = ClusterTable::Clock::now();

  std::mutex mutex_;
  bool serving_ = false;  // the rest is guarded by mutex_
  v1::ModelInfo model_;
  EngineOptions engine_options_;
  const Engine* engine_ = nullptr;  // null until loaded
};

}  // namespace intermix
