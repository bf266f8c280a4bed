// ParallelGroups: one rank's communicators under a layout.
#pragma once

#include <memory>

#include "comm/communicator.h"
#include "comm/parallel_layout.h"

namespace intermix {

struct ParallelGroups {
  ParallelLayout layout;
  std::unique_ptr<Communicator> world;  // everyone
  std::unique_ptr<Communicator> tp;     // shares this rank's sequences
  std::unique_ptr<Communicator> dp;     // the same tp_rank of every dp group
  std::unique_ptr<Communicator> etp;    // shares this rank's experts

  int rank() const { return world->rank(); }
};

// Collective over `world`.
inline ParallelGroups MakeParallelGroups(const ParallelLayout& layout,
                                         std::unique_ptr<Communicator> world) {
  const int rank = world->rank();
  ParallelGroups groups{.layout = layout};
  groups.tp = world->Split(layout.dp_rank(rank), rank);
  groups.dp = world->Split(layout.tp_rank(rank), rank);
  groups.etp = world->Split(layout.ep_rank(rank), rank);
  groups.world = std::move(world);
  return groups;
}

}  // namespace intermix
