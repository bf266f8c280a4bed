// A rank's device by its name on the command line, and how its memory reaches the other ranks.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "comm/communicator.h"
#include "comm/watchdog.h"
#include "kernels/backend.h"
#include "runtime/engine/rank.h"

namespace intermix {

// The backend of options.device on this rank.
//   INVALID_ARGUMENT: there is no such device, or fewer of them than ranks on this host.
//   UNAVAILABLE: this host or this build cannot run it.
absl::StatusOr<std::unique_ptr<Backend>> OpenDevice(const RankOptions& options, int rank);

// Whether the device that `options` name can run the model.
//   INVALID_ARGUMENT: names the number that is beyond a limit, and the limit.
absl::Status CheckModel(const RankOptions& options, const ModelConfig& config,
                        const ShardPlan& plan);

// How long a step may take before a peer counts as gone; 0: for ever.
std::chrono::milliseconds StepLimit(const Backend& backend, int num_ranks);

// Collective over `control`, whose ranks all have the same kind of device: the communicator for
// their devices' memory. It does not outlive the backend or the watchdog. The same status on every
// rank.
//   UNAVAILABLE: a transport is missing, says which.
absl::StatusOr<std::unique_ptr<Communicator>> ConnectDevices(Backend& backend, Watchdog& watchdog,
                                                             Communicator& control);

}  // namespace intermix
