// ParallelGroups: one rank's communicators under a layout.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <utility>

#include "comm/communicator.h"
#include "comm/parallel_layout.h"

namespace intermix {

struct ParallelGroups {
  ParallelLayout layout;
  std::unique_ptr<Communicator> control;  // everyone, for host memory: plans, agreement
  // For the device's memory:
  std::unique_ptr<Communicator> world;  // everyone
  std::unique_ptr<Communicator> tp;     // shares this rank's sequences
  std::unique_ptr<Communicator> dp;     // the same tp_rank of every dp group
  std::unique_ptr<Communicator> etp;    // shares this rank's experts

  // From how many tokens per rank on a prefill's tokens travel to their experts in halves, one
  // while the other is worked on; none: where that is faster. The same on all ranks.
  std::optional<int64_t> overlap_tokens;

  int rank() const { return control->rank(); }
};

// Collective. `world` carries device memory between the same ranks as `control`.
inline ParallelGroups MakeParallelGroups(const ParallelLayout& layout,
                                         std::unique_ptr<Communicator> control,
                                         std::unique_ptr<Communicator> world) {
  const int rank = world->rank();
  ParallelGroups groups{.layout = layout};
  groups.control = std::move(control);
  groups.tp = world->Split(layout.dp_rank(rank), rank);
  groups.dp = world->Split(layout.tp_rank(rank), rank);
  groups.etp = world->Split(layout.ep_rank(rank), rank);
  groups.world = std::move(world);
  return groups;
}

// For devices whose memory the host's transport reaches.
inline ParallelGroups MakeParallelGroups(const ParallelLayout& layout,
                                         std::unique_ptr<Communicator> control) {
  std::unique_ptr<Communicator> world = control->Split(0, control->rank());
  return MakeParallelGroups(layout, std::move(control), std::move(world));
}

}  // namespace intermix
