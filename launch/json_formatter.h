// JsonFormatter: a log line as one JSON object, for what collects logs:
//   {"time":"2026-01-31T12:00:00.123Z","level":"info","rank":0,"message":"..."}
// without "rank" where there is one process only. Bytes that are no UTF-8 become U+FFFD.
#pragma once

#include <memory>

#include "spdlog/formatter.h"

namespace intermix {

class JsonFormatter final : public spdlog::formatter {
 public:
  explicit JsonFormatter(int rank) : rank_(rank) {}  // < 0: not one of several

  void format(const spdlog::details::log_msg& message, spdlog::memory_buf_t& out) override;
  std::unique_ptr<spdlog::formatter> clone() const override;

 private:
  const int rank_;
};

}  // namespace intermix
