// ExpertPlacement: which expert group holds which expert: contiguous, equal ranges. A pure value.
#pragma once

#include "comm/parallel_layout.h"
#include "comm/sharding.h"

namespace intermix {

struct ExpertPlacement {
  int num_experts = 0;
  ParallelLayout layout;

  int experts_per_group() const { return num_experts / layout.ep; }
  int group_of(int expert) const { return expert / experts_per_group(); }
  Slice experts_of_group(int ep_rank) const {
    return {.begin = ep_rank * experts_per_group(), .end = (ep_rank + 1) * experts_per_group()};
  }
};

}  // namespace intermix
