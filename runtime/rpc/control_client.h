// ControlClient: how a rank, rank 0 included, reports to the control service: it registers, holds a
// call open that ends with the process, and sends heartbeats from its own thread, so they do not
// depend on steps or on MPI's progress.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "absl/time/time.h"
#include "grpcpp/grpcpp.h"
#include "intermix/v1/control.grpc.pb.h"

namespace intermix {

struct ControlClientOptions {
  std::string address;  // host:port of rank 0's server
  std::string job_id;
  absl::Duration interval = absl::Milliseconds(250);   // between heartbeats
  absl::Duration rpc_timeout = absl::Seconds(3);       // of one attempt
  absl::Duration farewell_timeout = absl::Seconds(1);  // of telling rank 0 that the rank leaves
  // Called on the client's thread when Control.SetLogLevel has asked for another level.
  std::function<void(const std::string& level)> on_log_level = [](const std::string&) {};
  // Called on the client's thread where no attempt succeeded for `silence_limit`.
  absl::Duration silence_limit = absl::InfiniteDuration();
  std::function<void()> on_silence = [] {};
};

class ControlClient {
 public:
  // Starts reporting. `status` is called on the client's thread and outlives it; what fails is
  // tried again with the next heartbeat, and logged where that fails too.
  ControlClient(const ControlClientOptions& options, const v1::RankInfo& info,
                std::function<v1::RankStatus()> status);
  ~ControlClient();  // says that the rank leaves; returns soon, also where rank 0 is gone
  ControlClient(const ControlClient&) = delete;
  ControlClient& operator=(const ControlClient&) = delete;

  // Any thread. Registers again, with what is known now.
  void SetInfo(const v1::RankInfo& info);

  // Any thread: tells rank 0, at once and with every heartbeat from here on, to stop the job.
  void RequestStop();

 private:
  void Run();
  // One exchange with rank 0.
  grpc::Status Register();
  grpc::Status Heartbeat();
  void Report();
  // Sees to it that the Attend call is open.
  void Attend();
  void Leave();
  // A context with the timeout, which the destructor can cancel; then what `call` returns.
  grpc::Status Call(const std::function<grpc::Status(grpc::ClientContext&)>& call);

  // The open Attend call.
  struct Attendance {
    ~Attendance();
    grpc::ClientContext context;
    v1::AttendResponse response;
    std::unique_ptr<grpc::ClientWriter<v1::AttendRequest>> writer;
  };

  const ControlClientOptions options_;
  const std::function<v1::RankStatus()> status_;
  const std::unique_ptr<v1::Control::Stub> stub_;
  const uint32_t rank_;

  std::mutex mutex_;
  std::condition_variable wake_;
  v1::RankInfo info_;  // from here on guarded by mutex_
  bool registered_ = false;
  bool stop_requested_ = false;
  bool report_now_ = false;
  bool ending_ = false;
  grpc::ClientContext* in_flight_ = nullptr;
  // From here on of the client's thread alone.
  std::string log_level_;                   // asked for last
  std::unique_ptr<Attendance> attendance_;  // null before the first
  int num_failures_ = 0;                    // since the last success
  absl::Time failing_since_;                // the first of them

  std::thread thread_;
};

}  // namespace intermix
