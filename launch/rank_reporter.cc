#include "launch/rank_reporter.h"

#include <unistd.h>

#include <fstream>

#include "launch/probe_host.h"
#include "runtime/rpc/proto_convert.h"

namespace intermix {
namespace {

// proc(5): the second number of statm is the resident set, in pages.
uint64_t ResidentBytes() {
  std::ifstream statm("/proc/self/statm");
  uint64_t total = 0;
  uint64_t resident = 0;
  statm >> total >> resident;
  return resident * static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
}

}  // namespace

v1::RankInfo RankReporter::Info() const {
  v1::RankInfo info;
  info.set_rank(rank_index_);
  info.set_host(HostName());
  info.set_pid(getpid());
  const Rank* rank = rank_;
  if (rank == nullptr) return info;
  info.set_device(rank->device_name());
  info.set_dp_rank(rank->layout().dp_rank(rank_index_));
  info.set_tp_rank(rank->layout().tp_rank(rank_index_));
  info.set_ep_rank(rank->layout().ep_rank(rank_index_));
  info.set_etp_rank(rank->layout().etp_rank(rank_index_));
  info.set_weight_bytes(rank->weight_bytes());
  info.set_kv_bytes(rank->kv_bytes());
  return info;
}

v1::RankStatus RankReporter::Status() const {
  v1::RankStatus status;
  status.set_resident_bytes(ResidentBytes());
  const Rank* rank = rank_;
  if (rank == nullptr) {
    status.set_phase(v1::RANK_PHASE_LOADING);
    return status;
  }
  const RankProgress& progress = rank->progress();
  status.set_phase(stopping_          ? v1::RANK_PHASE_STOPPING
                   : progress.in_step ? v1::RANK_PHASE_STEPPING
                                      : v1::RANK_PHASE_IDLE);
  status.set_step(progress.step);
  status.set_tokens(progress.tokens);
  *status.mutable_step_time() = DurationToProto(absl::Microseconds(progress.step_us.load()));
  for (int64_t tokens : rank->expert_tokens()) status.add_expert_tokens(tokens);
  return status;
}

}  // namespace intermix
