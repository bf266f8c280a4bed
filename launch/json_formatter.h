// JsonFormatter: a log line as one JSON object, for what collects logs:
//   {"time":"2026-01-31T12:00:00.123Z","level":"info","rank":0,"message":"..."}
// without "rank" where there is one process only. ASCII only: other characters are escaped, and
// bytes that are no UTF-8 become U+FFFD.
#pragma once

#include <memory>

#include "spdlog/formatter.h"

namespace intermix {

class JsonFormatter final : public spdlog::formatter {
 public:
  // What a logger is given: words, or a JSON object whose members join the line instead.
  enum class Payload { kMessage, kMembers };

  // `rank` < 0: not one of several.
  explicit JsonFormatter(int rank, Payload payload = Payload::kMessage)
      : rank_(rank), payload_(payload) {}

  void format(const spdlog::details::log_msg& message, spdlog::memory_buf_t& out) override;
  std::unique_ptr<spdlog::formatter> clone() const override;

 private:
  const int rank_;
  const Payload payload_;
};

}  // namespace intermix
