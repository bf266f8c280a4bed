// A request's line: what it says, and that nobody can make it say more.
#include "launch/request_log.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "launch/json_formatter.h"
#include "nlohmann/json.hpp"
#include "spdlog/details/log_msg.h"

namespace intermix {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

const std::string kTrace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

RequestRecord Answered() {
  return {.id = "chat-7",
          .traceparent = kTrace,
          .prompt_tokens = 6,
          .cached_tokens = 2,
          .output_tokens = 64,
          .queued = absl::Microseconds(150),
          .first_token = absl::Milliseconds(3),
          .total = absl::Seconds(1),
          .finish_reasons = {FinishReason::kStop, FinishReason::kLength}};
}

TEST(RequestLogTest, ALineOfText) {
  EXPECT_EQ(RequestText(Answered()),
            "request id=\"chat-7\" traceparent=" + kTrace +
                " status=OK finish=stop,length prompt_tokens=6 cached_tokens=2 output_tokens=64 "
                "queue_ms=0.150 ttft_ms=3.000 total_ms=1000.000");
  EXPECT_EQ(RequestText({.status = absl::UnavailableError("the server is \"draining\"")}),
            "request id=\"\" status=UNAVAILABLE prompt_tokens=0 cached_tokens=0 output_tokens=0 "
            "total_ms=0.000 error=\"the server is \\\"draining\\\"\"");
}

TEST(RequestLogTest, AnObject) {
  EXPECT_EQ(RequestJson(Answered()),
            R"({"request_id":"chat-7","traceparent":")" + kTrace +
                R"(","status":"OK","finish_reason":"stop,length","prompt_tokens":6,)"
                R"("cached_tokens":2,"output_tokens":64,"queue_ms":0.15,"ttft_ms":3.0,)"
                R"("total_ms":1000.0})");
  EXPECT_THAT(RequestJson({.status = absl::CancelledError("gone")}),
              HasSubstr(R"("status":"CANCELLED")"));
}

TEST(RequestLogTest, NobodyForgesALine) {
  RequestRecord record = Answered();
  record.id = "a\" status=OK\nrequest id=\"b\x1B[2J\xC2\x9B\xE2\x80\xA8\xFF" + std::string(1, '\0');
  record.status = absl::InvalidArgumentError("stop \"x\ny\"");
  for (const std::string& line : {RequestText(record), RequestJson(record)}) {
    for (const char c : line) EXPECT_TRUE(c >= ' ' && c <= '~') << line;
  }
  EXPECT_THAT(RequestText(record), HasSubstr(R"(id="a\" status=OK\nrequest id=\"b\x1b[2J\xc2)"));
  const auto json = nlohmann::json::parse(RequestJson(record));
  EXPECT_EQ(json["status"], "INVALID_ARGUMENT");
  EXPECT_THAT(json["request_id"].get<std::string>(), HasSubstr("\nrequest id=\"b"));
}

TEST(RequestLogTest, LongIdsAreCut) {
  RequestRecord record = Answered();
  record.id.assign(100'000, 'a');
  record.status = absl::InternalError(std::string(100'000, 'b'));
  EXPECT_LT(RequestText(record).size(), 1000u);
  EXPECT_LT(RequestJson(record).size(), 1000u);
}

TEST(RequestLogTest, ItsMembersJoinTheLine) {
  spdlog::memory_buf_t out;
  JsonFormatter(0, JsonFormatter::Payload::kMembers)
      .clone()
      ->format({spdlog::source_loc(), "requests", spdlog::level::info, RequestJson(Answered())},
               out);
  const std::string line(out.data(), out.size());
  EXPECT_THAT(line, Not(HasSubstr("\\\"")));
  const auto json = nlohmann::json::parse(line);
  EXPECT_EQ(json["message"], "request");
  EXPECT_EQ(json["rank"], 0);
  EXPECT_EQ(json["request_id"], "chat-7");
  EXPECT_EQ(json["output_tokens"], 64);
}

}  // namespace
}  // namespace intermix
