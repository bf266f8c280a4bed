// ControlService: the server side of intermix.v1.Control: what the server is and does, what an
// operator makes it do, and the table of ranks that their heartbeats fill. Thread-safe.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "grpcpp/grpcpp.h"
#include "intermix/v1/control.grpc.pb.h"
#include "runtime/engine/engine.h"
#include "runtime/rpc/cluster_table.h"
#include "runtime/rpc/front.h"
#include "runtime/rpc/live_requests.h"
#include "runtime/rpc/task_pool.h"

namespace intermix {

// What the service can make happen; each is called on a gRPC thread and must return at once.
struct ControlActions {
  std::function<void()> stop;           // a rank says that it was asked to stop
  std::function<absl::Status()> drain;  // see control.proto for these
  std::function<absl::Status()> resume;
  std::function<void(absl::Duration)> shut_down;
};

class ControlService final : public v1::Control::CallbackService {
 public:
  static constexpr int kMaxWatches =
      64;  // WatchStats calls at a time: each takes a sample for itself

  // `job_id` is what ranks must show. `table`, `live` and `pool`, which turns text into tokens and
  // back, outlive the service.
  ControlService(std::string version, std::string job_id, ClusterTable& table, LiveRequests& live,
                 TaskPool& pool, ControlActions actions);

  // The model is loaded. `engine` and the model's tokenizer outlive the gRPC server.
  void Open(const v1::ModelInfo& info, const EngineOptions& options, Engine& engine,
            const FrontModel& model);
  void SetServing(bool serving);  // as health says

  // The RPCs of control.proto, in its order.
  using Context = grpc::CallbackServerContext;
  using Reactor = grpc::ServerUnaryReactor;
  Reactor* GetServerInfo(Context* context, const v1::GetServerInfoRequest* request,
                         v1::GetServerInfoResponse* response) override;
  Reactor* GetCluster(Context* context, const v1::GetClusterRequest* request,
                      v1::GetClusterResponse* response) override;
  Reactor* GetModelInfo(Context* context, const v1::GetModelInfoRequest* request,
                        v1::GetModelInfoResponse* response) override;
  Reactor* GetLoad(Context* context, const v1::GetLoadRequest* request,
                   v1::GetLoadResponse* response) override;
  grpc::ServerWriteReactor<v1::Stats>* WatchStats(Context* context,
                                                  const v1::WatchStatsRequest* request) override;
  Reactor* Tokenize(Context* context, const v1::TokenizeRequest* request,
                    v1::TokenizeResponse* response) override;
  Reactor* Detokenize(Context* context, const v1::DetokenizeRequest* request,
                      v1::DetokenizeResponse* response) override;
  Reactor* Abort(Context* context, const v1::AbortRequest* request,
                 v1::AbortResponse* response) override;
  Reactor* Drain(Context* context, const v1::DrainRequest* request,
                 v1::DrainResponse* response) override;
  Reactor* Resume(Context* context, const v1::ResumeRequest* request,
                  v1::ResumeResponse* response) override;
  Reactor* Shutdown(Context* context, const v1::ShutdownRequest* request,
                    v1::ShutdownResponse* response) override;
  Reactor* SetLogLevel(Context* context, const v1::SetLogLevelRequest* request,
                       v1::SetLogLevelResponse* response) override;
  Reactor* FlushPrefixCache(Context* context, const v1::FlushPrefixCacheRequest* request,
                            v1::FlushPrefixCacheResponse* response) override;
  Reactor* Register(Context* context, const v1::RegisterRequest* request,
                    v1::RegisterResponse* response) override;
  Reactor* Heartbeat(Context* context, const v1::HeartbeatRequest* request,
                     v1::HeartbeatResponse* response) override;
  grpc::ServerReadReactor<v1::AttendRequest>* Attend(Context* context,
                                                     v1::AttendResponse* response) override;

 private:
  // What Open brings; constant from then on.
  struct Loaded {
    v1::ModelInfo info;
    EngineOptions options;
    Engine* engine = nullptr;
    FrontModel model;
  };

  // Answers with what `work`, which runs on the pool, returns.
  Reactor* AnswerLater(Context* context, size_t bytes, std::function<absl::Status()> work);
  absl::Status CheckJob(const std::string& job_id) const;
  // UNAVAILABLE until loaded.
  absl::StatusOr<std::shared_ptr<const Loaded>> GetLoaded() const;
  bool serving() const;
  v1::Stats Sample() const;

  const std::string version_;
  const std::string job_id_;
  ClusterTable& table_;
  LiveRequests& live_;
  TaskPool& pool_;
  const ControlActions actions_;
  const ClusterTable::Clock::time_point started_ = ClusterTable::Clock::now();

  std::atomic<int> num_watches_{0};

  mutable std::mutex mutex_;  // guards what follows
  bool serving_ = false;
  std::shared_ptr<const Loaded> loaded_;  // null until then
  std::string log_level_;                 // asked for last; empty: none yet
};

}  // namespace intermix
