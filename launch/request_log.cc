#include "launch/request_log.h"

#include <optional>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "launch/json_formatter.h"
#include "launch/logging.h"
#include "nlohmann/json.hpp"
#include "spdlog/async.h"
#include "spdlog/sinks/stdout_color_sinks.h"
#include "spdlog/spdlog.h"

namespace intermix {
namespace {

// Lines that wait to be written.
constexpr size_t kMaxWaiting = 8192;
// More than that no id or error may add to a line.
constexpr size_t kMaxText = 256;

double Milliseconds(absl::Duration duration) { return absl::ToDoubleMilliseconds(duration); }

std::string FinishText(const RequestRecord& record) {
  return absl::StrJoin(record.finish_reasons, ",", [](std::string* out, FinishReason reason) {
    out->append(reason == FinishReason::kStop ? "stop" : "length");
  });
}

// In quotes, ASCII only: no terminal, pager or collector takes any of it for something else.
std::string Quoted(const std::string& text) {
  return absl::StrCat("\"", absl::CHexEscape(text.substr(0, kMaxText)), "\"");
}

}  // namespace

std::string RequestText(const RequestRecord& record) {
  std::string text = absl::StrCat("request id=", Quoted(record.id));
  const auto add = [&text](const char* name, const auto& value) {
    absl::StrAppend(&text, " ", name, "=", value);
  };
  const auto add_time = [&add](const char* name, const std::optional<absl::Duration>& time) {
    if (time.has_value()) add(name, absl::StrFormat("%.3f", Milliseconds(*time)));
  };
  if (!record.traceparent.empty()) add("traceparent", record.traceparent);
  add("status", absl::StatusCodeToString(record.status.code()));
  if (!record.finish_reasons.empty()) add("finish", FinishText(record));
  add("prompt_tokens", record.prompt_tokens);
  add("cached_tokens", record.cached_tokens);
  add("output_tokens", record.output_tokens);
  add_time("queue_ms", record.queued);
  add_time("ttft_ms", record.first_token);
  add_time("total_ms", record.total);
  if (!record.status.ok()) add("error", Quoted(std::string(record.status.message())));
  return text;
}

std::string RequestJson(const RequestRecord& record) {
  nlohmann::ordered_json json = {{"request_id", record.id.substr(0, kMaxText)}};
  const auto add_time = [&json](const char* name, const std::optional<absl::Duration>& time) {
    if (time.has_value()) json[name] = Milliseconds(*time);
  };
  if (!record.traceparent.empty()) json["traceparent"] = record.traceparent;
  json["status"] = absl::StatusCodeToString(record.status.code());
  if (!record.finish_reasons.empty()) json["finish_reason"] = FinishText(record);
  json["prompt_tokens"] = record.prompt_tokens;
  json["cached_tokens"] = record.cached_tokens;
  json["output_tokens"] = record.output_tokens;
  add_time("queue_ms", record.queued);
  add_time("ttft_ms", record.first_token);
  add_time("total_ms", record.total);
  if (!record.status.ok()) {
    json["error"] = std::string(record.status.message().substr(0, kMaxText));
  }
  return json.dump(-1, ' ', true, nlohmann::ordered_json::error_handler_t::replace);
}

RequestLog::RequestLog(bool json, int rank)
    : json_(json),
      thread_(std::make_shared<spdlog::details::thread_pool>(kMaxWaiting, 1)),
      logger_(std::make_shared<spdlog::async_logger>(
          "requests", std::make_shared<spdlog::sinks::stderr_color_sink_mt>(), thread_,
          spdlog::async_overflow_policy::overrun_oldest)) {
  if (json_) {
    logger_->set_formatter(std::make_unique<JsonFormatter>(rank, JsonFormatter::Payload::kMembers));
  } else {
    logger_->set_pattern(LogPattern(rank));
  }
  logger_->set_level(spdlog::get_level());
  spdlog::register_logger(logger_);  // so that ChangeLogLevel reaches it
}

RequestLog::~RequestLog() { spdlog::drop("requests"); }

void RequestLog::Write(const RequestRecord& record) {
  if (!logger_->should_log(spdlog::level::info)) return;
  logger_->info("{}", json_ ? RequestJson(record) : RequestText(record));
}

}  // namespace intermix
