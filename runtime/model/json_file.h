// Reading JSON that nobody vouched for: bounded in size and depth, no name twice in one object.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "nlohmann/json_fwd.hpp"

namespace intermix {

// Parses `text`; `where` opens every message.
//   INVALID_ARGUMENT: not JSON, nested deeper than 32, or a name given twice.
absl::StatusOr<nlohmann::json> ParseJson(std::string_view text, const std::string& where);

// Reads a file of at most 100 MB.  NOT_FOUND, INVALID_ARGUMENT name the file.
absl::StatusOr<nlohmann::json> ReadJsonFile(const std::string& path);

}  // namespace intermix
