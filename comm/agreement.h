// Agreement: one rank's failure at start becomes everyone's, with one message; what all must do or
// none.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "comm/communicator.h"

namespace intermix {

// Collective. OK where every rank's status is; else the lowest failing rank's status, on every rank
// (its message prefixed with "rank R: " where the job has more than one rank and not all failed
// alike).
absl::Status AgreeOnStatus(Communicator& world, const absl::Status& mine);

// Collective. Every rank's text, by rank, on every rank.
std::vector<std::string> GatherTexts(Communicator& world, const std::string& mine);

// Collective. Whether all ranks say true.
bool AgreeThat(Communicator& world, bool mine);

}  // namespace intermix
