// JsonFields: typed, bounded reads of one JSON object's fields, for files that nobody vouched for.
// The first field that is missing, of the wrong type or out of range is kept as the status; later
// reads then return a default, so that a parser is a flat list of reads and one check at its end.
// An explicit null counts as absent. Borrows the JSON; not thread-safe.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "nlohmann/json_fwd.hpp"

namespace intermix {

class JsonFields {
 public:
  // `where` opens every message: "config.json".
  JsonFields(const nlohmann::json& object, std::string where);

  const absl::Status& status() const { return status_; }

  // The field, or nullptr where it is absent or null.
  const nlohmann::json* Find(const std::string& name) const;

  // A whole number in [min, max]. Absent: `fallback`, or an error where there is none.
  int64_t Integer(const std::string& name, int64_t min, int64_t max,
                  std::optional<int64_t> fallback = std::nullopt);
  // One whole number or a list of at most 64, each in [min, max]; empty where the field is absent.
  std::vector<int64_t> Integers(const std::string& name, int64_t min, int64_t max);
  // A finite number in [min, max].
  double Number(const std::string& name, double min, double max,
                std::optional<double> fallback = std::nullopt);
  bool Boolean(const std::string& name, bool fallback);
  std::string String(const std::string& name,
                     const std::optional<std::string>& fallback = std::nullopt);

  // Keeps INVALID_ARGUMENT "<where>: <what>" unless there is an earlier error.
  void Fail(const std::string& what);

 private:
  int64_t CheckInteger(const std::string& name, const nlohmann::json& value, int64_t min,
                       int64_t max);

  const nlohmann::json& object_;
  std::string where_;
  absl::Status status_;
};

// A JSON value for a message: its text, cut to a readable length.
std::string ShortText(const nlohmann::json& value);

}  // namespace intermix
