#include "launch/json_formatter.h"

#include <string>

#include "absl/time/time.h"
#include "nlohmann/json.hpp"
#include "spdlog/details/log_msg.h"

namespace intermix {

void JsonFormatter::format(const spdlog::details::log_msg& message, spdlog::memory_buf_t& out) {
  const absl::Time time = absl::FromChrono(message.time);
  nlohmann::ordered_json line = {
      {"time", absl::FormatTime("%Y-%m-%dT%H:%M:%E3SZ", time, absl::UTCTimeZone())}};
  const auto level = spdlog::level::to_string_view(message.level);
  line["level"] = std::string(level.data(), level.size());
  if (rank_ >= 0) line["rank"] = rank_;
  const std::string payload(message.payload.data(), message.payload.size());
  if (payload_ == Payload::kMembers) {
    line["message"] = "request";
    line.update(nlohmann::ordered_json::parse(payload, nullptr, /*allow_exceptions=*/false));
  } else {
    line["message"] = payload;
  }
  const std::string text =
      line.dump(-1, ' ', true, nlohmann::ordered_json::error_handler_t::replace) + "\n";
  out.append(text.data(), text.data() + text.size());
}

std::unique_ptr<spdlog::formatter> JsonFormatter::clone() const {
  return std::make_unique<JsonFormatter>(rank_, payload_);
}

}  // namespace intermix
