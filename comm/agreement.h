// Start-up agreement: one rank's failure becomes everyone's, with one message.
#pragma once

#include "absl/status/status.h"
#include "comm/communicator.h"

namespace intermix {

// Collective. OK where every rank's status is; else the lowest failing rank's status, on every rank
// (its message prefixed with "rank R: " where the job has more than one rank and not all failed
// alike).
absl::Status AgreeOnStatus(Communicator& world, const absl::Status& mine);

}  // namespace intermix
