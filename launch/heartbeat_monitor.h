// HeartbeatMonitor: ends the job when a rank falls silent, since every other one would wait for it
// in a collective forever. (A rank that exits is noticed by mpirun at once; this is for one that
// hangs.)
#pragma once

#include <condition_variable>
#include <mutex>
#include <thread>

#include "absl/time/time.h"
#include "runtime/rpc/cluster_table.h"

namespace intermix {

class HeartbeatMonitor {
 public:
  // Watches `table`, which outlives it, from its own thread. A `limit` of 0 watches nothing.
  HeartbeatMonitor(const ClusterTable& table, absl::Duration limit);
  ~HeartbeatMonitor();
  HeartbeatMonitor(const HeartbeatMonitor&) = delete;
  HeartbeatMonitor& operator=(const HeartbeatMonitor&) = delete;

 private:
  void Run(const ClusterTable& table, absl::Duration limit);

  std::mutex mutex_;
  std::condition_variable wake_;
  bool ending_ = false;  // guarded by mutex_
  std::thread thread_;
};

}  // namespace intermix
