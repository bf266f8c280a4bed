// `intermix client generate --file` against two ranks.
#include <csignal>
#include <sstream>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/testing/served_model.h"

namespace intermix {
namespace {

using nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::SizeIs;

std::vector<json> Lines(const std::string& text) {
  std::vector<json> lines;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) lines.push_back(json::parse(line));
  return lines;
}

TEST(ClientBatchTest, AnswersEveryLineInOrder) {
  // More at once than the server takes: what it refuses for a full queue is asked again.
  const Served served({"--max-running", "2", "--max-queue", "2"});
  const TempDirectory directory;
  std::string prompts;
  for (int i = 0; i < 12; ++i) {
    const json line = {{"id", "r" + std::to_string(i)},
                       {"prompt", "And it came to pass"},
                       {"sampling", {{"max_tokens", 1 + i}, {"ignore_eos", true}}}};
    prompts += line.dump() + "\n\n";  // blank lines are nothing
  }
  WriteFile(directory / "in.jsonl", prompts);
  const ProgramResult batch =
      served.Client({"generate", "--file", directory / "in.jsonl", "--output",
                     directory / "out.jsonl", "--concurrency", "12"});
  EXPECT_EQ(batch.exit_code, 0) << batch.err;
  EXPECT_EQ(batch.out, "");
  EXPECT_THAT(batch.err, HasSubstr("100%  12 of 12 requests"));
  EXPECT_THAT(ListNames(directory.path()), ElementsAre("in.jsonl", "out.jsonl"));
  const std::vector<json> lines = Lines(ReadFile(directory / "out.jsonl"));
  ASSERT_THAT(lines, SizeIs(12));
  const std::string longest = lines.back()["text"];
  for (int i = 0; i < 12; ++i) {
    EXPECT_EQ(lines[i]["index"], i);
    EXPECT_EQ(lines[i]["id"], "r" + std::to_string(i));
    EXPECT_EQ(lines[i]["usage"]["completion_tokens"], 1 + i);
    const std::string text = lines[i]["text"];
    EXPECT_EQ(longest.substr(0, text.size()), text) << "greedy: each one begins the next";
  }
  EXPECT_EQ(served
                .Client({"generate", "--prompt", "And it came to pass", "--max-tokens", "12",
                         "--ignore-eos"})
                .out,
            longest + "\n");
}

TEST(ClientBatchTest, FailuresAreLinesToo) {
  const Served served;
  const TempDirectory directory;
  WriteFile(directory / "in.jsonl",
            "\"And\"\nAnd\n{\"prompt\": \"And\", \"sampling\": {\"top_p\": 2}}\n");
  const ProgramResult batch =
      served.Client({"generate", "--file", directory / "in.jsonl", "--max-tokens", "2"});
  EXPECT_EQ(batch.exit_code, 1);
  EXPECT_THAT(batch.err, HasSubstr("intermix: 2 of 3 requests failed; their lines say why\n"));
  const std::vector<json> lines = Lines(batch.out);
  ASSERT_THAT(lines, SizeIs(3));
  EXPECT_EQ(lines[0]["usage"]["completion_tokens"], 2);
  EXPECT_EQ(lines[1]["error"]["code"], "INVALID_ARGUMENT");
  EXPECT_EQ(lines[2]["error"]["message"], "top_p is 2; it must be in (0, 1]");
}

TEST(ClientBatchTest, CtrlCKeepsWhatIsDone) {
  Served served = Served::Endless();
  const TempDirectory directory;
  WriteFile(directory / "in.jsonl",
            "{\"prompt\": \"And\", \"sampling\": {\"max_tokens\": " + std::to_string(kEndless) +
                ", \"ignore_eos\": true}}\n"
                "{\"prompt\": \"And\", \"sampling\": {\"max_tokens\": 1}}\n");
  WriteFile(directory / "out.jsonl", "from before");
  BackgroundProcess batch(served.ClientCommand(
      {"generate", "--file", directory / "in.jsonl", "--output", directory / "out.jsonl"}));
  for (int i = 0; i < 24000 && batch.err().find("1 of 2 requests") == std::string::npos; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  kill(batch.pid(), SIGINT);
  EXPECT_EQ(batch.Wait(), 128 + SIGINT);
  EXPECT_THAT(batch.err(),
              HasSubstr("intermix: stopped after 1 of 2 requests; their lines are in " +
                        (directory / "out.jsonl.partial")));
  EXPECT_EQ(ReadFile(directory / "out.jsonl"), "from before");
  const std::vector<json> lines = Lines(ReadFile(directory / "out.jsonl.partial"));
  ASSERT_THAT(lines, SizeIs(1));
  EXPECT_EQ(lines[0]["index"], 1);
  EXPECT_TRUE(served.Running(0)) << "cancelled";
}

TEST(ClientBatchTest, AServerThatIsNotThereEndsTheRun) {
  const TempDirectory directory;
  WriteFile(directory / "in.jsonl", "\"And\"\n\"And\"\n");
  const ProgramResult batch =
      RunProgram({.arguments = {IntermixBinary(), "client", "generate", "--file",
                                directory / "in.jsonl", "--server", "127.0.0.1:1"}});
  EXPECT_EQ(batch.exit_code, 1);
  EXPECT_EQ(batch.out, "");
  EXPECT_THAT(batch.err, HasSubstr("stopped after 0 of 2 requests"));
  EXPECT_THAT(batch.err, HasSubstr("is `intermix serve` running there?"));
  const auto code = [&](std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), {IntermixBinary(), "client", "generate"});
    return RunProgram({.arguments = arguments}).exit_code;
  };
  EXPECT_EQ(code({"--file", "/nonexistent"}), 1);
  EXPECT_EQ(code({"--file", "a", "--prompt", "b"}), 2);
  EXPECT_EQ(code({"--prompt", "b", "--output", "c"}), 2);
}

}  // namespace
}  // namespace intermix
