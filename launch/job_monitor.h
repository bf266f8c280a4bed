// JobMonitor: rank 0's eye on the other ranks and on the engine's steps.
//
// Ends the job when a rank is gone (its connection ended) or was silent for the stall timeout,
// since every other one would wait for it in a collective forever: every stream ends UNAVAILABLE
// with the rank's name, and the process with an error. Where no step ended for the stall timeout
// although there is work, all ranks being alive, it says so and health is NOT_SERVING until one
// does.
#pragma once

#include <condition_variable>
#include <functional>
#include <mutex>
#include <string>
#include <thread>

#include "absl/time/time.h"
#include "kernels/core/check.h"
#include "runtime/engine/engine.h"
#include "runtime/rpc/server.h"

namespace intermix {

class JobMonitor {
 public:
  struct Options {
    absl::Duration stall_timeout = absl::Seconds(30);  // 0: none
    // Ends the process; called on any thread, after the streams have ended.
    std::function<void(const std::string& why)> end = Fatal;
  };

  // Watches from its own thread; both outlive it.
  JobMonitor(RpcServer& server, const Engine& engine, Options options);
  ~JobMonitor();
  JobMonitor(const JobMonitor&) = delete;
  JobMonitor& operator=(const JobMonitor&) = delete;

  // For who was asked to stop: where a rank died that is why, for launchers then ask all others to
  // stop, within milliseconds. Ends the job as the monitor's own thread would.
  void EndIfARankIsGone();

 private:
  void Run();
  void WatchRanks(absl::Duration gone_limit);
  void WatchSteps();

  RpcServer& server_;
  const Engine& engine_;
  const Options options_;
  const absl::Duration silence_limit_;

  std::mutex ending_the_job_;  // held while that is done, once

  int64_t last_step_ = 0;  // from here on of the monitor's thread alone
  absl::Time last_progress_;
  bool stalled_ = false;

  std::mutex mutex_;
  std::condition_variable wake_;
  bool stop_ = false;  // guarded by mutex_
  std::thread thread_;
};

}  // namespace intermix
