// RpcServer: the gRPC server of rank 0: inference and control services, grpc.health.v1 and server
// reflection, with limits on what a client may cost.
//
// Life: Start (control answers, health says NOT_SERVING, requests are UNAVAILABLE) -> Open
// (SERVING)
// -> Drain (NOT_SERVING; open streams go on) -> Shutdown. Called from one thread. Meanwhile clients
// of the control service may pause and resume it, and ask for a shutdown, which reaches the owner
// through on_stop_requested.
#pragma once

#include <chrono>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "grpcpp/grpcpp.h"
#include "runtime/rpc/cluster_table.h"
#include "runtime/rpc/control_service.h"
#include "runtime/rpc/inference_service.h"
#include "runtime/rpc/listen_address.h"
#include "runtime/rpc/task_pool.h"

namespace intermix {

struct RpcServerOptions {
  ListenAddress listen;
  std::string version;                          // of Intermix
  int world = 1;                                // ranks of the job
  int max_message_bytes = 16 << 20;             // of one request
  int max_streams_per_connection = 1024;        // RPCs at a time
  size_t max_memory_bytes = size_t{256} << 20;  // that gRPC may use for buffers
  // A rank, or a client of the control service, wants the job to stop; called on any thread, more
  // than once.
  std::function<void()> on_stop_requested = [] {};
  RequestObserver on_request_end = nullptr;  // hears of every Generate call that is over
};

class RpcServer {
 public:
  // Listens. Where the default port is taken, another free one; address() says which.
  //   As TryListen, for a port that was asked for.
  static absl::StatusOr<std::unique_ptr<RpcServer>> Start(const RpcServerOptions& options);
  ~RpcServer();  // Shutdown, with no grace

  const ListenAddress& address() const { return address_; }
  const std::string& job_id() const { return job_id_; }  // drawn at Start; ranks show it
  ClusterTable& cluster() { return table_; }
  // Generate calls that are not over for gRPC yet. Any thread.
  int num_open_streams() { return inference_.live().size(); }

  // See InferenceService::Open and ControlService::Open for what must outlive Shutdown.
  void Open(Engine& engine, const EngineOptions& engine_options, const FrontModel& model,
            const v1::ModelInfo& model_info);
  void Drain();
  // Whether a step could run now, as far as the owner knows; health says NOT_SERVING while not. Any
  // thread.
  void SetStalled(bool stalled);
  // The job cannot go on, because of `why`: ends all streams UNAVAILABLE with it, and those that
  // are yet to come; waits until they have ended, or until `patience` is over. Any thread.
  void Fail(const std::string& why, absl::Duration patience);
  // RPCs that are still open after `grace` end; returns when none is left. Idempotent.
  void Shutdown(absl::Duration grace);

 private:
  enum class State { kLoading, kServing, kPaused, kEnding };

  explicit RpcServer(const RpcServerOptions& options);
  ControlActions MakeActions();
  void PublishHealth();  // mutex_ held
  absl::Status Pause();
  absl::Status Resume();
  void ShutDownAfter(absl::Duration grace);  // once the streams have ended, or after `grace`

  const std::string job_id_;
  const std::function<void()> on_stop_requested_;
  ListenAddress address_;
  ClusterTable table_;
  TaskPool pool_;
  InferenceService inference_;
  ControlService control_;
  std::unique_ptr<grpc::Server> server_;  // null after Shutdown

  std::mutex mutex_;  // guards what follows
  std::condition_variable ending_;
  State state_ = State::kLoading;
  bool stalled_ = false;
  bool failed_ = false;
  std::chrono::steady_clock::time_point stop_at_;  // at the latest, where stopper_ runs
  std::thread stopper_;  // waits for the streams of a shutdown that was asked for
};

}  // namespace intermix
