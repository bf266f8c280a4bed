// ClusterTable: what rank 0 knows of every rank, from their registrations and heartbeats.
// Thread-safe.
#pragma once

#include <chrono>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "intermix/v1/control.pb.h"

namespace intermix {

class ClusterTable {
 public:
  using Clock = std::chrono::steady_clock;

  // `now` stands in for the clock in tests.
  explicit ClusterTable(int world, std::function<Clock::time_point()> now = Clock::now);

  // Adds a rank or replaces what is known of it; counts as a heartbeat.
  //   INVALID_ARGUMENT: the rank is not one of this job's.
  absl::Status Register(const v1::RankInfo& info);

  //   NOT_FOUND: the rank has not registered.
  absl::Status Heartbeat(uint32_t rank, const v1::RankStatus& status);

  // Ranks ascending, with the age of each one's last heartbeat.
  v1::GetClusterResponse Snapshot() const;

  // The registered rank that was silent for longest, where that is longer than `limit`.
  struct SilentRank {
    uint32_t rank = 0;
    std::string host;
    absl::Duration age;
  };
  std::optional<SilentRank> FindSilent(absl::Duration limit) const;

 private:
  struct Entry {
    v1::RankInfo info;
    v1::RankStatus status;
    Clock::time_point last_heartbeat;
  };

  const int world_;
  const std::function<Clock::time_point()> now_;
  mutable std::mutex mutex_;
  std::map<uint32_t, Entry> entries_;  // by rank; guarded by mutex_
};

}  // namespace intermix
