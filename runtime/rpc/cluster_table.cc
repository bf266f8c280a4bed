#include "runtime/rpc/cluster_table.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "runtime/rpc/proto_convert.h"

namespace intermix {
namespace {

// Of a rank that sends four heartbeats in a second.
constexpr absl::Duration kSilent = absl::Seconds(2);

absl::Status NotRegistered(uint32_t rank) {
  return absl::NotFoundError(absl::StrCat("rank ", rank, " has not registered"));
}

// "rank 1 on host WHAT; when last heard of it was stepping, its last step was 17"
std::string Sentence(const v1::RankInfo& info, const std::string& what,
                     const v1::RankStatus& status) {
  return absl::StrCat("rank ", info.rank(), " on ", info.host(), " ", what,
                      "; when last heard of it was ", PhaseText(status.phase()),
                      ", its last step was ", status.step());
}

}  // namespace

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
  entry.left = false;
  entry.last_heartbeat = now_();
  return absl::OkStatus();
}

absl::Status ClusterTable::Heartbeat(uint32_t rank, const v1::RankStatus& status, bool leaving) {
  const std::lock_guard lock(mutex_);
  const auto it = entries_.find(rank);
  if (it == entries_.end()) return NotRegistered(rank);
  it->second.status = status;
  it->second.last_heartbeat = now_();
  it->second.left |= leaving;  // what it sent before that may arrive later
  return absl::OkStatus();
}

absl::Status ClusterTable::Connect(uint32_t rank) {
  const std::lock_guard lock(mutex_);
  const auto it = entries_.find(rank);
  if (it == entries_.end()) return NotRegistered(rank);
  ++it->second.connections;
  it->second.gone_since.reset();
  return absl::OkStatus();
}

void ClusterTable::Disconnect(uint32_t rank) {
  const std::lock_guard lock(mutex_);
  Entry& entry = entries_.at(rank);
  if (--entry.connections > 0 || entry.left) return;
  entry.gone_since = now_();
  disconnected_.notify_all();
}

v1::RankState ClusterTable::StateOf(const Entry& entry, Clock::time_point now) const {
  if (entry.left) return v1::RANK_STATE_LEFT;
  if (entry.gone_since.has_value()) return v1::RANK_STATE_GONE;
  const bool silent = absl::FromChrono(now - entry.last_heartbeat) > kSilent;
  return silent ? v1::RANK_STATE_SILENT : v1::RANK_STATE_ALIVE;
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
    out->set_state(StateOf(entry, now));
  }
  return response;
}

std::optional<std::string> ClusterTable::FindTrouble(absl::Duration gone_limit,
                                                     absl::Duration silence_limit) const {
  const std::lock_guard lock(mutex_);
  const Clock::time_point now = now_();
  const Entry* gone = nullptr;
  const Entry* silent = nullptr;
  for (const auto& [rank, entry] : entries_) {
    if (entry.left) continue;
    if (entry.gone_since.has_value() && (!gone || entry.gone_since < gone->gone_since)) {
      gone = &entry;
    }
    if (!silent || entry.last_heartbeat < silent->last_heartbeat) silent = &entry;
  }
  if (gone && absl::FromChrono(now - *gone->gone_since) >= gone_limit) {
    return Sentence(gone->info, "is gone: its connection ended", gone->status);
  }
  if (!silent) return std::nullopt;
  const absl::Duration age = absl::FromChrono(now - silent->last_heartbeat);
  if (age < silence_limit) return std::nullopt;
  const std::string seconds = absl::FormatDuration(absl::Trunc(age, absl::Milliseconds(100)));
  return Sentence(silent->info, absl::StrCat("has been silent for ", seconds), silent->status);
}

bool ClusterTable::AwaitGone(absl::Duration patience) const {
  std::unique_lock lock(mutex_);
  return world_ > 1 && disconnected_.wait_for(lock, absl::ToChronoMilliseconds(patience), [this] {
    return std::any_of(entries_.begin(), entries_.end(), [](const auto& entry) {
      return entry.second.gone_since.has_value() && !entry.second.left;
    });
  });
}

void ClusterTable::ForgiveSilence() {
  const std::lock_guard lock(mutex_);
  for (auto& [rank, entry] : entries_) entry.last_heartbeat = now_();
}

}  // namespace intermix
