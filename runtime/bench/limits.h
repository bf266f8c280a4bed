// Which limits stand beside a device's kernels (kernels/limits.h). A new kind of device adds its
// own here.
#pragma once

#include <vector>

#include "absl/status/statusor.h"
#include "kernels/limits.h"
#include "runtime/engine/rank.h"

namespace intermix {

// Those that bound the ops of the backend that options.device names, at most one of each Resource;
// empty for a device whose limits are not known.
absl::StatusOr<std::vector<Limit>> LimitsOf(const RankOptions& options);

// Everything this device can be asked for: each instruction set, and 1, 2, 4, .. all threads.
absl::StatusOr<std::vector<Limit>> AllLimitsOf(const RankOptions& options);

}  // namespace intermix
