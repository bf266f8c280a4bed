#include "moe/expert_shards.h"

namespace intermix {

Slice GroupRows(const ExpertPlacement& placement, const ExpertOrder& order, int group) {
  const Slice experts = placement.experts_of_group(group);
  return {.begin = order.offsets[experts.begin], .end = order.offsets[experts.end]};
}

Tensor MergeGroups(const Execution& exec, const ExpertPlacement& placement,
                   const ExpertOrder& order, const Tensor& returned) {
  const int etp = placement.layout.etp;
  if (etp == 1) return returned;
  const int64_t cols = returned.cols();
  const Tensor merged = exec.Take(returned.dtype(), {returned.rows() / etp, cols * etp});
  for (int group = 0; group < placement.layout.ep; ++group) {
    const Slice rows = GroupRows(placement, order, group);
    const Tensor shards(returned.Rows(rows.begin * etp, rows.end * etp).raw(), returned.dtype(),
                        {etp, rows.size(), cols});
    exec.backend.MergeColumns(shards, merged.Rows(rows.begin, rows.end));
  }
  return merged;
}

}  // namespace intermix
