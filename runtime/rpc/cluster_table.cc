#include "runtime/rpc/cluster_table.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "runtime/rpc/proto_convert.h"

namespace intermix {

ClusterTable::ClusterTable(int world, std::function<Clock::time_point()> now)
    : world_(world), now_(std::move(now)) {}

absl::Status ClusterTable::Register(const v1::RankInfo& info) {
  if (info.rank() >= static_cast<uint32_t>(world_)) {
    return absl::InvalidArgumentError(
        absl::StrCat("rank is ", info.rank(), "; this job has ranks 0 to ", world_ - 1));
  }
  const std::lock_guard lock(mutex_);
  Entry& entry = entries_[info.rank()];
  entry.info = info;
  entry.last_heartbeat = now_();
  return absl::OkStatus();
}

absl::Status ClusterTable::Heartbeat(uint32_t rank, const v1::RankStatus& status) {
  const std::lock_guard lock(mutex_);
  const auto it = entries_.find(rank);
  if (it == entries_.end()) {
    return absl::NotFoundError(absl::StrCat("rank ", rank, " has not registered"));
  }
  it->second.status = status;
  it->second.last_heartbeat = now_();
  return absl::OkStatus();
}

v1::GetClusterResponse ClusterTable::Snapshot() const {
  v1::GetClusterResponse response;
  response.set_world(world_);
  const std::lock_guard lock(mutex_);
  const Clock::time_point now = now_();
  for (const auto& [rank, entry] : entries_) {
    v1::Rank* out = response.add_ranks();
    *out->mutable_info() = entry.info;
    *out->mutable_status() = entry.status;
    *out->mutable_heartbeat_age() = DurationToProto(absl::FromChrono(now - entry.last_heartbeat));
  }
  return response;
}

std::optional<ClusterTable::SilentRank> ClusterTable::FindSilent(absl::Duration limit) const {
  const std::lock_guard lock(mutex_);
  const Clock::time_point now = now_();
  std::optional<SilentRank> worst;
  for (const auto& [rank, entry] : entries_) {
    const absl::Duration age = absl::FromChrono(now - entry.last_heartbeat);
    if (age > limit && (!worst.has_value() || age > worst->age)) {
      worst = SilentRank{.rank = rank, .host = entry.info.host(), .age = age};
    }
  }
  return worst;
}

}  // namespace intermix
