#include "runtime/model/json_file.h"

#include <filesystem>
#include <fstream>
#include <set>
#include <system_error>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "runtime/model/json_fields.h"

namespace intermix {

using nlohmann::json;

absl::StatusOr<json> ParseJson(std::string_view text, const std::string& where) {
  constexpr int kMaxDepth = 32;
  std::string problem;
  std::vector<std::set<std::string>> names;  // of the objects that are open
  const auto watch = [&](int depth, json::parse_event_t event, json& parsed) {
    switch (event) {
      case json::parse_event_t::object_start:
        names.emplace_back();
        [[fallthrough]];
      case json::parse_event_t::array_start:
        if (depth >= kMaxDepth && problem.empty()) {
          problem = absl::StrCat("is nested deeper than ", kMaxDepth);
        }
        break;
      case json::parse_event_t::key:
        if (!names.back().insert(parsed.get<std::string>()).second && problem.empty()) {
          problem = absl::StrCat("has the name ", ShortText(parsed), " twice");
        }
        break;
      case json::parse_event_t::object_end:
        names.pop_back();
        break;
      default:
        break;
    }
    return problem.empty();
  };
  json value = json::parse(text.begin(), text.end(), watch, /*allow_exceptions=*/false);
  if (!problem.empty()) return absl::InvalidArgumentError(absl::StrCat(where, " ", problem));
  if (value.is_discarded()) return absl::InvalidArgumentError(absl::StrCat(where, " is not JSON"));
  return value;
}

absl::StatusOr<json> ReadJsonFile(const std::string& path) {
  constexpr uint64_t kMaxBytes = 100'000'000;
  std::error_code error;
  if (!std::filesystem::is_regular_file(path, error)) {
    return absl::NotFoundError(absl::StrCat("there is no file ", path));
  }
  const uint64_t size = std::filesystem::file_size(path, error);
  std::ifstream file(path, std::ios::binary);
  if (error || !file) {
    return absl::InvalidArgumentError(absl::StrCat("cannot read ", path));
  }
  if (size > kMaxBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, " has ", size, " bytes, too many for a JSON file here"));
  }
  std::string text(size, '\0');
  if (size > 0 && !file.read(text.data(), static_cast<std::streamsize>(size))) {
    return absl::InvalidArgumentError(absl::StrCat("cannot read ", path));
  }
  return ParseJson(text, path);
}

}  // namespace intermix
