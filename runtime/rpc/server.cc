#include "runtime/rpc/server.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "grpcpp/ext/proto_server_reflection_plugin.h"
#include "grpcpp/health_check_service_interface.h"
#include "grpcpp/resource_quota.h"
#include "runtime/rpc/front.h"

namespace intermix {
namespace {

// Two, so that one long text does not keep all others waiting.
constexpr int kTokenizerThreads = 2;
constexpr size_t kMaxWaitingBytes = size_t{64} << 20;

std::string DrawJobId() { return absl::StrCat(absl::Hex(DrawSeed()), absl::Hex(DrawSeed())); }

// gRPC 1.51 predates the fixes for HTTP/2's rapid resets and continuation floods, so a client is
// kept on a short lead: few pings, small headers, idle and half-open connections closed.
void SetLimits(const RpcServerOptions& options, grpc::ServerBuilder& builder) {
  constexpr int kSecond = 1000;
  builder.SetMaxReceiveMessageSize(options.max_message_bytes);
  grpc::ResourceQuota quota("intermix");
  builder.SetResourceQuota(quota.Resize(options.max_memory_bytes));
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, options.max_streams_per_connection);
  builder.AddChannelArgument(GRPC_ARG_MAX_METADATA_SIZE, 8 << 10);
  builder.AddChannelArgument(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, 10 * kSecond);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, 60 * kSecond);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 20 * kSecond);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 10 * kSecond);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_PING_STRIKES, 2);
}

// The address to listen on: the one asked for, or any free port where the default one is taken.
absl::StatusOr<ListenAddress> ChooseAddress(ListenAddress address) {
  const absl::Status status = TryListen(address);
  if (status.ok()) return address;
  if (!absl::IsAlreadyExists(status) || address.port_given) return status;
  address.port = 0;
  return address;
}

}  // namespace

RpcServer::RpcServer(const RpcServerOptions& options)
    : job_id_(DrawJobId()),
      on_stop_requested_(options.on_stop_requested),
      table_(options.world),
      pool_(kTokenizerThreads, kMaxWaitingBytes),
      inference_(pool_, options.on_request_end),
      control_(options.version, job_id_, table_, inference_.live(), pool_, MakeActions()) {}

ControlActions RpcServer::MakeActions() {
  return {.stop = on_stop_requested_,
          .drain = [this] { return Pause(); },
          .resume = [this] { return Resume(); },
          .shut_down = [this](absl::Duration grace) { ShutDownAfter(grace); }};
}

absl::StatusOr<std::unique_ptr<RpcServer>> RpcServer::Start(const RpcServerOptions& options) {
  absl::StatusOr<ListenAddress> address = ChooseAddress(options.listen);
  if (!address.ok()) return address.status();

  grpc::EnableDefaultHealthCheckService(true);
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  std::unique_ptr<RpcServer> self(new RpcServer(options));
  grpc::ServerBuilder builder;
  SetLimits(options, builder);
  // Else two servers could share a port, and each get some of the clients.
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  int port = 0;
  builder.AddListeningPort(address->ToString(), grpc::InsecureServerCredentials(), &port);
  builder.RegisterService(&self->inference_);
  builder.RegisterService(&self->control_);
  self->server_ = builder.BuildAndStart();
  if (self->server_ == nullptr) {
    return absl::UnavailableError(
        absl::StrCat("cannot listen on ", address->ToString(), "; choose another port"));
  }
  {
    const std::lock_guard lock(self->mutex_);
    self->PublishHealth();
  }
  address->port = port;
  self->address_ = *address;
  return self;
}

RpcServer::~RpcServer() { Shutdown(absl::ZeroDuration()); }

void RpcServer::PublishHealth() {
  const bool serving = state_ == State::kServing && !stalled_;
  grpc::HealthCheckServiceInterface* health = server_->GetHealthCheckService();
  health->SetServingStatus(serving);  // of the server as a whole, named ""
  health->SetServingStatus(v1::Inference::service_full_name(), serving);
  control_.SetServing(serving);
}

void RpcServer::Open(Engine& engine, const EngineOptions& engine_options, const FrontModel& model,
                     const v1::ModelInfo& model_info) {
  // Streams that have ended and are yet to be read hold memory, too.
  inference_.live().SetLimit(2 * (engine_options.max_running + engine_options.max_queue));
  inference_.Open(engine, model);
  control_.Open(model_info, engine_options, engine, model);
  const std::lock_guard lock(mutex_);
  state_ = State::kServing;
  PublishHealth();
}

absl::Status RpcServer::Pause() {
  const std::lock_guard lock(mutex_);
  if (state_ == State::kLoading) {
    return absl::FailedPreconditionError("the model is still loading; there is nothing to drain");
  }
  if (state_ == State::kServing) {
    state_ = State::kPaused;
    PublishHealth();
    inference_.Close("the server is draining; ask another one");
  }
  return absl::OkStatus();
}

absl::Status RpcServer::Resume() {
  const std::lock_guard lock(mutex_);
  if (state_ == State::kLoading || state_ == State::kEnding || stopper_.joinable()) {
    return absl::FailedPreconditionError("the server is loading or shutting down");
  }
  if (state_ == State::kPaused) {
    state_ = State::kServing;
    inference_.Reopen();
    PublishHealth();
  }
  return absl::OkStatus();
}

void RpcServer::ShutDownAfter(absl::Duration grace) {
  if (!Pause().ok()) return on_stop_requested_();  // it loads: nobody is to be waited for
  const std::lock_guard lock(mutex_);
  if (state_ == State::kEnding) return;
  const auto stop_at = std::chrono::steady_clock::now() + absl::ToChronoMilliseconds(grace);
  if (stopper_.joinable()) {
    stop_at_ = std::min(stop_at_, stop_at);  // who asks again may want it sooner
    return;
  }
  stop_at_ = stop_at;
  stopper_ = std::thread([this] {
    constexpr auto kPoll = std::chrono::milliseconds(10);
    std::unique_lock stopper_lock(mutex_);
    while (num_open_streams() > 0 && std::chrono::steady_clock::now() < stop_at_) {
      if (ending_.wait_for(stopper_lock, kPoll, [this] { return state_ == State::kEnding; }))
        return;
    }
    stopper_lock.unlock();
    on_stop_requested_();
  });
}

void RpcServer::Drain() {
  const std::lock_guard lock(mutex_);
  state_ = State::kEnding;
  ending_.notify_all();
  PublishHealth();
  if (!failed_) inference_.Close("the server is shutting down; ask another one");
}

void RpcServer::SetStalled(bool stalled) {
  const std::lock_guard lock(mutex_);
  if (std::exchange(stalled_, stalled) != stalled) PublishHealth();
}

void RpcServer::Fail(const std::string& why, absl::Duration patience) {
  {
    const std::lock_guard lock(mutex_);
    state_ = State::kEnding;
    failed_ = true;
    ending_.notify_all();
    PublishHealth();
    inference_.Close(why);
  }
  const auto deadline = std::chrono::steady_clock::now() + absl::ToChronoMilliseconds(patience);
  do {  // again and again, as a request may just be on its way to the engine
    inference_.live().FailAll(absl::UnavailableError(why));
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  } while (num_open_streams() > 0 && std::chrono::steady_clock::now() < deadline);
}

void RpcServer::Shutdown(absl::Duration grace) {
  if (server_ == nullptr) return;
  Drain();
  server_->Shutdown(std::chrono::system_clock::now() + absl::ToChronoMilliseconds(grace));
  if (stopper_.joinable()) stopper_.join();  // no RPC starts it any more
  pool_.Stop();                              // before what its tasks use
  server_ = nullptr;
}

}  // namespace intermix
