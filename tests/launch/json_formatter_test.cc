#include "launch/json_formatter.h"

#include "gtest/gtest.h"
#include "spdlog/details/log_msg.h"

namespace intermix {
namespace {

std::string Format(int rank, const std::string& text) {
  spdlog::details::log_msg message(spdlog::source_loc(), "intermix", spdlog::level::warn, text);
  message.time =
      std::chrono::system_clock::time_point(std::chrono::milliseconds(1'500'000'000'007));
  spdlog::memory_buf_t out;
  JsonFormatter(rank).clone()->format(message, out);
  return {out.data(), out.size()};
}

TEST(JsonFormatterTest, ALineIsAnObject) {
  EXPECT_EQ(Format(3, "port 1 is taken"),
            R"({"time":"2017-07-14T02:40:00.007Z","level":"warning","rank":3,)"
            R"("message":"port 1 is taken"})"
            "\n");
  EXPECT_EQ(Format(-1, ""),
            "{\"time\":\"2017-07-14T02:40:00.007Z\",\"level\":\"warning\",\"message\":\"\"}\n");
}

TEST(JsonFormatterTest, NoTextBreaksOutOfItsLine) {
  const std::string line = Format(-1, "a \"b\"\n{\x1B\xFF}");
  EXPECT_NE(line.find(R"("message":"a \"b\"\n{\u001b)"), std::string::npos) << line;
  EXPECT_EQ(line.find('\n'), line.size() - 1);
  EXPECT_EQ(line.find('\xFF'), std::string::npos);
}

}  // namespace
}  // namespace intermix
