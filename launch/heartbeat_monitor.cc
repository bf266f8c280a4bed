#include "launch/heartbeat_monitor.h"

#include <chrono>
#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "kernels/core/check.h"

namespace intermix {

HeartbeatMonitor::HeartbeatMonitor(const ClusterTable& table, absl::Duration limit) {
  if (limit > absl::ZeroDuration()) {
    thread_ = std::thread([this, &table, limit] { Run(table, limit); });
  }
}

HeartbeatMonitor::~HeartbeatMonitor() {
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
  }
  wake_.notify_one();
  if (thread_.joinable()) thread_.join();
}

void HeartbeatMonitor::Run(const ClusterTable& table, absl::Duration limit) {
  std::unique_lock lock(mutex_);
  while (!wake_.wait_for(lock, std::chrono::milliseconds(500), [this] { return ending_; })) {
    const std::optional<ClusterTable::SilentRank> silent = table.FindSilent(limit);
    if (silent.has_value()) {
      Fatal(absl::StrCat("rank ", silent->rank, " on ", silent->host, " has been silent for ",
                         absl::FormatDuration(absl::Floor(silent->age, absl::Seconds(1))),
                         "; ending the job"));
    }
  }
}

}  // namespace intermix
