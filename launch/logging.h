// Logging of the command line programs: spdlog to stderr, gRPC's and protobuf's own words included.
#pragma once

#include <string>

#include "absl/status/status.h"

namespace intermix {

// Called once, by main's thread, before others log. `rank` < 0: not one of several ranks.
//   INVALID_ARGUMENT: no such level; the message lists them.
// `json`: each line is a JSON object (json_formatter.h).
absl::Status SetUpLogging(const std::string& level, int rank, bool json = false);

// How a line of text looks, in spdlog's words.
std::string LogPattern(int rank);

// Any thread: changes the level of a log that is set up. `level` is one that SetUpLogging takes.
void ChangeLogLevel(const std::string& level);

}  // namespace intermix
