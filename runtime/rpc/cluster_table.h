// ClusterTable: what rank 0 knows of every rank, from their registrations, heartbeats and
// connections. Thread-safe.
#pragma once

#include <chrono>
#include <condition_variable>
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

  // `leaving`: the rank ends in an orderly way; nothing is expected of it any more.
  //   NOT_FOUND: the rank has not registered.
  absl::Status Heartbeat(uint32_t rank, const v1::RankStatus& status, bool leaving = false);

  // A connection that lives as long as the rank does began (NOT_FOUND: the rank has not
  // registered), or ended. Where none is left, and the rank did not say that it leaves, it is gone.
  absl::Status Connect(uint32_t rank);
  void Disconnect(uint32_t rank);

  // Ranks ascending, with the age of each one's last heartbeat.
  v1::GetClusterResponse Snapshot() const;

  // One sentence about the first rank that is without a connection for longer than `gone_limit`, or
  // else about the one that was silent for longest, where that is longer than `silence_limit`:
  // which rank, on which host, and what it did when it was last heard of.
  std::optional<std::string> FindTrouble(absl::Duration gone_limit,
                                         absl::Duration silence_limit) const;

  // Whether a rank is gone; waits for that until `patience` is over.
  bool AwaitGone(absl::Duration patience) const;

  // Counts as a heartbeat of every rank: where rank 0 itself was stopped, it heard of nobody.
  void ForgiveSilence();

 private:
  struct Entry {
    v1::RankInfo info;
    v1::RankStatus status;
    Clock::time_point last_heartbeat;
    int connections = 0;
    std::optional<Clock::time_point> gone_since;  // without a connection; since when
    bool left = false;
  };

  v1::RankState StateOf(const Entry& entry, Clock::time_point now) const;  // mutex_ held

  const int world_;
  const std::function<Clock::time_point()> now_;
  mutable std::mutex mutex_;
  mutable std::condition_variable disconnected_;
  std::map<uint32_t, Entry> entries_;  // by rank; guarded by mutex_
};

}  // namespace intermix
