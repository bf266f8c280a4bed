#include "launch/logging.h"

#include <memory>

#include "absl/strings/str_cat.h"
#include "google/protobuf/stubs/logging.h"
#include "grpc/support/log.h"
#include "launch/json_formatter.h"
#include "spdlog/sinks/stdout_color_sinks.h"
#include "spdlog/spdlog.h"

namespace intermix {
namespace {

// What gRPC calls an error is mostly a client's doing (a reset connection, say), and what matters
// of it comes back as a status.
void LogGrpc(gpr_log_func_args* args) { spdlog::debug("grpc: {}", args->message); }

void LogProtobuf(google::protobuf::LogLevel, const char*, int, const std::string& message) {
  spdlog::debug("protobuf: {}", message);
}

}  // namespace

absl::Status SetUpLogging(const std::string& level, int rank, bool json) {
  const spdlog::level::level_enum parsed = spdlog::level::from_str(level);
  if (parsed == spdlog::level::off && level != "off") {
    return absl::InvalidArgumentError(absl::StrCat(
        "--log-level is '", level, "'; it must be trace, debug, info, warning, error or off"));
  }
  spdlog::set_default_logger(spdlog::stderr_color_mt("intermix"));
  if (json) {
    spdlog::set_formatter(std::make_unique<JsonFormatter>(rank));
  } else {
    spdlog::set_pattern(LogPattern(rank));
  }
  spdlog::set_level(parsed);
  gpr_set_log_function(LogGrpc);
  google::protobuf::SetLogHandler(LogProtobuf);
  return absl::OkStatus();
}

std::string LogPattern(int rank) {
  const std::string who = rank < 0 ? "intermix" : absl::StrCat("intermix rank ", rank);
  return absl::StrCat("%H:%M:%S.%e ", who, ": %^%l%$: %v");
}

void ChangeLogLevel(const std::string& level) {
  spdlog::info("the log level is now {}", level);
  spdlog::set_level(spdlog::level::from_str(level));
}

}  // namespace intermix
