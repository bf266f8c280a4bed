// Results of column-sharded experts: which rows belong to which expert group, and how the columns
// of a group's etp ranks come together again.
#pragma once

#include "comm/execution.h"
#include "comm/sharding.h"
#include "moe/expert_placement.h"
#include "moe/routing.h"

namespace intermix {

// Of the rows in `order`, those whose experts are in expert group `group`.
Slice GroupRows(const ExpertPlacement& placement, const ExpertOrder& order, int group);

// Puts the columns of each group's etp ranks side by side.
//   returned  [rows * etp, hidden / etp]: group after group; in a group, rank after rank
//   returns   [rows, hidden], in the order of `order`
Tensor MergeGroups(const Execution& exec, const ExpertPlacement& placement,
                   const ExpertOrder& order, const Tensor& returned);

}  // namespace intermix
