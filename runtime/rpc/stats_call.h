// StatsCall: one running WatchStats RPC: a sample at an interval, until the client has enough.
// Holds no thread: an alarm of gRPC's wakes it.
#pragma once

#include <functional>
#include <memory>
#include <mutex>

#include "absl/time/time.h"
#include "grpcpp/alarm.h"
#include "grpcpp/grpcpp.h"
#include "intermix/v1/control.pb.h"

namespace intermix {

// The rates of change from `before` to `now`, into `now`.
void SetRates(const v1::Stats& before, absl::Duration interval, v1::Stats& now);

class StatsCall final : public grpc::ServerWriteReactor<v1::Stats> {
 public:
  // Owns itself until OnDone, when it calls `on_done`. Both are called on gRPC's threads, and what
  // they use outlives the server.
  StatsCall(absl::Duration interval, std::function<v1::Stats()> sample,
            std::function<void()> on_done);

  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

 private:
  void Write();
  void Wait();

  // Either a write or an alarm is under way, and what ends it goes on or finishes; so nothing is
  // left to call back when the call is done.
  const absl::Duration interval_;
  const std::function<v1::Stats()> sample_;
  const std::function<void()> on_done_;
  v1::Stats message_;  // lives while it is written
  absl::Time sampled_;

  std::mutex mutex_;                    // guards what follows
  std::unique_ptr<grpc::Alarm> alarm_;  // null before the first
  bool cancelled_ = false;
};

}  // namespace intermix
