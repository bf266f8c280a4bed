#include "runtime/model/json_fields.h"

#include <cmath>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"

namespace intermix {

using nlohmann::json;

JsonFields::JsonFields(const json& object, std::string where)
    : object_(object), where_(std::move(where)) {
  if (!object_.is_object()) {
    status_ = absl::InvalidArgumentError(absl::StrCat(where_, " is not a JSON object"));
  }
}

const json* JsonFields::Find(const std::string& name) const {
  if (!object_.is_object()) return nullptr;
  const auto it = object_.find(name);
  return it == object_.end() || it->is_null() ? nullptr : &*it;
}

int64_t JsonFields::CheckInteger(const std::string& name, const json& value, int64_t min,
                                 int64_t max) {
  if (!value.is_number_integer()) {
    Fail(absl::StrCat(name, " is ", ShortText(value), ", not a whole number"));
    return min;
  }
  const bool beyond = value.is_number_unsigned() &&
                      value.get<uint64_t>() > uint64_t{std::numeric_limits<int64_t>::max()};
  const int64_t number = beyond ? 0 : value.get<int64_t>();
  if (beyond || number < min || number > max) {
    Fail(absl::StrCat(name, " is ", ShortText(value), ", outside ", min, "..", max));
    return min;
  }
  return number;
}

int64_t JsonFields::Integer(const std::string& name, int64_t min, int64_t max,
                            std::optional<int64_t> fallback) {
  const json* value = Find(name);
  if (value != nullptr) return CheckInteger(name, *value, min, max);
  if (!fallback) Fail(absl::StrCat("field ", name, " is missing"));
  return fallback.value_or(min);
}

std::vector<int64_t> JsonFields::Integers(const std::string& name, int64_t min, int64_t max) {
  constexpr size_t kMaxCount = 64;
  const json* value = Find(name);
  if (value == nullptr) return {};
  if (!value->is_array()) return {CheckInteger(name, *value, min, max)};
  if (value->size() > kMaxCount) {
    Fail(absl::StrCat(name, " has ", value->size(), " entries, above ", kMaxCount));
    return {};
  }
  std::vector<int64_t> numbers;
  for (const json& entry : *value) numbers.push_back(CheckInteger(name, entry, min, max));
  return numbers;
}

double JsonFields::Number(const std::string& name, double min, double max,
                          std::optional<double> fallback) {
  const json* value = Find(name);
  if (value == nullptr) {
    if (!fallback) Fail(absl::StrCat("field ", name, " is missing"));
    return fallback.value_or(min);
  }
  if (!value->is_number()) {
    Fail(absl::StrCat(name, " is ", ShortText(*value), ", not a number"));
    return min;
  }
  const double number = value->get<double>();
  if (!std::isfinite(number) || number < min || number > max) {
    Fail(absl::StrCat(name, " is ", ShortText(*value), ", outside ", min, "..", max));
    return min;
  }
  return number;
}

bool JsonFields::Boolean(const std::string& name, bool fallback) {
  const json* value = Find(name);
  if (value == nullptr) return fallback;
  if (value->is_boolean()) return value->get<bool>();
  Fail(absl::StrCat(name, " is ", ShortText(*value), ", not true or false"));
  return fallback;
}

std::string JsonFields::String(const std::string& name,
                               const std::optional<std::string>& fallback) {
  const json* value = Find(name);
  if (value == nullptr) {
    if (!fallback) Fail(absl::StrCat("field ", name, " is missing"));
    return fallback.value_or("");
  }
  if (value->is_string()) return value->get<std::string>();
  Fail(absl::StrCat(name, " is ", ShortText(*value), ", not a string"));
  return "";
}

void JsonFields::Fail(const std::string& what) {
  if (status_.ok()) status_ = absl::InvalidArgumentError(absl::StrCat(where_, ": ", what));
}

std::string ShortText(const json& value) {
  constexpr size_t kMaxLength = 60;
  if (value.is_object()) return "an object";
  if (value.is_array() && value.size() > 8) return "a long array";
  std::string text = value.dump(-1, ' ', true, json::error_handler_t::replace);
  if (text.size() > kMaxLength) text = text.substr(0, kMaxLength) + "...";
  return text;
}

}  // namespace intermix
