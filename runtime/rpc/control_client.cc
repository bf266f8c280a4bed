#include "runtime/rpc/control_client.h"

#include <chrono>
#include <utility>

#include "absl/time/clock.h"
#include "spdlog/spdlog.h"

namespace intermix {
namespace {

// Ranks are in one network; a proxy that http_proxy names is for what is outside.
std::shared_ptr<grpc::Channel> ConnectWithoutProxy(const std::string& address) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  return grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments);
}

}  // namespace

ControlClient::Attendance::~Attendance() {
  context.TryCancel();
  writer->Finish();
}

ControlClient::ControlClient(const ControlClientOptions& options, const v1::RankInfo& info,
                             std::function<v1::RankStatus()> status)
    : options_(options),
      status_(std::move(status)),
      stub_(v1::Control::NewStub(ConnectWithoutProxy(options.address))),
      rank_(info.rank()),
      info_(info),
      thread_([this] { Run(); }) {}

ControlClient::~ControlClient() {
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
    if (in_flight_ != nullptr) in_flight_->TryCancel();
  }
  wake_.notify_one();
  thread_.join();
}

void ControlClient::SetInfo(const v1::RankInfo& info) {
  {
    const std::lock_guard lock(mutex_);
    info_ = info;
    registered_ = false;
    report_now_ = true;
  }
  wake_.notify_one();
}

void ControlClient::RequestStop() {
  {
    const std::lock_guard lock(mutex_);
    stop_requested_ = true;
    report_now_ = true;
  }
  wake_.notify_one();
}

void ControlClient::Run() {
  while (true) {
    Report();
    std::unique_lock lock(mutex_);
    wake_.wait_for(lock, absl::ToChronoMilliseconds(options_.interval),
                   [this] { return ending_ || report_now_; });
    if (ending_) break;
    report_now_ = false;
  }
  Leave();
}

// Rank 0 hears it before the Attend call ends.
void ControlClient::Leave() {
  v1::HeartbeatRequest request;
  request.set_job_id(options_.job_id);
  request.set_rank(rank_);
  *request.mutable_status() = status_();
  request.set_leaving(true);
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() +
                       absl::ToChronoMilliseconds(options_.farewell_timeout));
  v1::HeartbeatResponse response;
  if (const grpc::Status status = stub_->Heartbeat(&context, request, &response); !status.ok()) {
    spdlog::debug("rank {} left without a word: {}", rank_, status.error_message());
  }
  attendance_ = nullptr;
}

void ControlClient::Report() {
  bool registered = false;
  {
    const std::lock_guard lock(mutex_);
    registered = registered_;
  }
  grpc::Status status = registered ? grpc::Status::OK : Register();
  if (status.ok()) status = Heartbeat();
  if (status.ok()) Attend();
  {
    const std::lock_guard lock(mutex_);
    if (status.error_code() == grpc::StatusCode::NOT_FOUND) registered_ = false;
    if (ending_) return;
  }
  num_failures_ = status.ok() ? 0 : num_failures_ + 1;
  if (status.ok()) return;
  if (num_failures_ == 1) failing_since_ = absl::Now();
  if (num_failures_ == 2) {
    spdlog::warn("rank {} cannot report to rank 0 at {}: {}", rank_, options_.address,
                 status.error_message());
  }
  if (absl::Now() - failing_since_ >= options_.silence_limit) options_.on_silence();
}

void ControlClient::Attend() {
  v1::AttendRequest request;
  request.set_job_id(options_.job_id);
  request.set_rank(rank_);
  if (attendance_ != nullptr && attendance_->writer->Write(request)) return;
  attendance_ = std::make_unique<Attendance>();
  attendance_->writer = stub_->Attend(&attendance_->context, &attendance_->response);
  attendance_->writer->Write(request);
}

grpc::Status ControlClient::Register() {
  v1::RegisterRequest request;
  request.set_job_id(options_.job_id);
  {
    const std::lock_guard lock(mutex_);
    *request.mutable_info() = info_;
    registered_ = true;  // unless it fails; SetInfo meanwhile makes it false again
  }
  v1::RegisterResponse response;
  const grpc::Status status = Call(
      [&](grpc::ClientContext& context) { return stub_->Register(&context, request, &response); });
  if (!status.ok()) {
    const std::lock_guard lock(mutex_);
    registered_ = false;
  }
  return status;
}

grpc::Status ControlClient::Heartbeat() {
  v1::HeartbeatRequest request;
  request.set_job_id(options_.job_id);
  *request.mutable_status() = status_();
  {
    const std::lock_guard lock(mutex_);
    request.set_rank(rank_);
    request.set_stop_requested(stop_requested_);
  }
  v1::HeartbeatResponse response;
  const grpc::Status status = Call(
      [&](grpc::ClientContext& context) { return stub_->Heartbeat(&context, request, &response); });
  if (status.ok() && response.log_level() != log_level_) {
    log_level_ = response.log_level();
    options_.on_log_level(log_level_);
  }
  return status;
}

grpc::Status ControlClient::Call(const std::function<grpc::Status(grpc::ClientContext&)>& call) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() +
                       absl::ToChronoMilliseconds(options_.rpc_timeout));
  {
    const std::lock_guard lock(mutex_);
    if (ending_) return grpc::Status::CANCELLED;
    in_flight_ = &context;
  }
  const grpc::Status status = call(context);
  const std::lock_guard lock(mutex_);
  in_flight_ = nullptr;
  return status;
}

}  // namespace intermix
