// RequestLog: a line of the log for every Generate call that is over, at level info.
//   request id="a" traceparent=00-... status=OK finish=stop prompt_tokens=6 cached_tokens=0 ...
// or, where the log is JSON, an object with these as members. What clients chose is escaped, so
// that one call is one line whatever they send.
#pragma once

#include <memory>
#include <string>

#include "runtime/rpc/request_record.h"

namespace spdlog {
class async_logger;
namespace details {
class thread_pool;
}
}  // namespace spdlog

namespace intermix {

// What a line says; pure functions.
std::string RequestText(const RequestRecord& record);  // "request id=..."
std::string RequestJson(const RequestRecord& record);  // {"request_id": ..., ...}

class RequestLog {
 public:
  // After SetUpLogging; `json` and `rank` as there. One at a time.
  RequestLog(bool json, int rank);
  ~RequestLog();  // writes what is left
  RequestLog(const RequestLog&) = delete;
  RequestLog& operator=(const RequestLog&) = delete;

  // Any thread. Waits for nothing: a thread of its own writes the lines, and where nobody reads
  // them, the oldest of many are dropped.
  void Write(const RequestRecord& record);

 private:
  const bool json_;
  std::shared_ptr<spdlog::details::thread_pool> thread_;
  std::shared_ptr<spdlog::async_logger> logger_;
};

}  // namespace intermix
