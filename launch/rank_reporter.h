// RankReporter: what this rank tells the control service about itself. Thread-safe.
#pragma once

#include <atomic>

#include "intermix/v1/control.pb.h"
#include "runtime/engine/rank.h"

namespace intermix {

class RankReporter {
 public:
  explicit RankReporter(int rank_index) : rank_index_(rank_index) {}

  // `rank` is loaded, and outlives the heartbeats.
  void SetLoaded(const Rank& rank) { rank_ = &rank; }
  void SetStopping() { stopping_ = true; }

  v1::RankInfo Info() const;
  v1::RankStatus Status() const;

 private:
  const int rank_index_;
  std::atomic<const Rank*> rank_{nullptr};
  std::atomic<bool> stopping_{false};
};

}  // namespace intermix
