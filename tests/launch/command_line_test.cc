// The binary's command line: what it refuses, and with which exit code.
#include <fstream>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "launch/port_file.h"
#include "tests/testing/model_files.h"
#include "tests/testing/run_program.h"
#include "tests/testing/test_paths.h"

namespace intermix {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::StartsWith;

const std::string kModel = TestData() + "/tiny-mixtral";

ProgramResult Intermix(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), IntermixBinary());
  return RunProgram({.arguments = arguments});
}

TEST(CommandLineTest, TellsItsVersionAndItsCommands) {
  EXPECT_THAT(Intermix({"--version"}).out, StartsWith("intermix 0."));
  const ProgramResult help = Intermix({"--help"});
  EXPECT_EQ(help.exit_code, 0);
  for (const char* command : {"serve", "generate", "client", "status", "quantize", "perplexity"}) {
    EXPECT_THAT(help.out, HasSubstr(command));
  }
}

TEST(CommandLineTest, AWrongCommandLineIsTwo) {
  for (const std::vector<std::string>& wrong : std::vector<std::vector<std::string>>{
           {},
           {"bogus"},
           {"client"},
           {"serve"},
           {"generate", "--model", kModel},
           {"generate", "--model", kModel, "--prompt", "a", "--token-ids", "1"},
           {"generate", "--model", kModel, "--prompt", "a", "--temperature", "hot"},
           {"perplexity", "--model", kModel}}) {
    const ProgramResult result = Intermix(wrong);
    EXPECT_EQ(result.exit_code, 2);
    EXPECT_THAT(result.err, Not(IsEmpty()));
  }
}

struct Refused {
  std::vector<std::string> arguments;
  std::string why;
};

TEST(CommandLineTest, BadInputIsOneSentenceAndOne) {
  const TempDirectory directory;
  std::ofstream(directory / "latin1") << "caf\xE9";
  const std::vector<std::string> generate = {"generate", "--model", kModel};
  for (const Refused& refused : std::vector<Refused>{
           {{"generate", "--model", "/nonexistent", "--prompt", "a"}, "not a directory"},
           {{"generate", "--model", kModel, "--prompt", "caf\xE9"}, "UTF-8"},
           {{"generate", "--model", kModel, "--prompt", "a", "--top-p", "2"}, "top_p"},
           {{"generate", "--model", kModel, "--prompt-file", "/nonexistent"}, "/nonexistent"},
           {{"generate", "--model", kModel, "--prompt", "a", "--log-level", "x"}, "--log-level"},
           {{"generate", "--model", kModel, "--prompt", "a", "--device", "tpu"}, "tpu"},
           {{"generate", "--model", kModel, "--prompt", "a", "--group-size", "48"}, "48"},
           {{"perplexity", "--model", kModel, "--text", "/nonexistent"}, "/nonexistent"},
           {{"perplexity", "--model", kModel, "--text", directory / "latin1"}, "UTF-8"},
           {{"serve", "--model", kModel, "--listen", "127.0.0.1:x"}, "--listen"},
           {{"serve", "--model", kModel, "--listen", ":0", "--port-file", "/nonexistent/x",
             "--log-level", "warning"},
            "--port-file"},
           {{"client", "generate", "--server", "127.0.0.1:1", "--prompt", "a"}, "127.0.0.1:1"},
           {{"client", "health", "--server", "127.0.0.1:1"}, "UNAVAILABLE"},
           {{"status", "--server", "127.0.0.1:1"}, "UNAVAILABLE"}}) {
    const ProgramResult result = Intermix(refused.arguments);
    EXPECT_EQ(result.exit_code, 1) << refused.why;
    EXPECT_THAT(result.out, IsEmpty());
    EXPECT_THAT(result.err, StartsWith("intermix: "));
    EXPECT_THAT(result.err, HasSubstr(refused.why));
    EXPECT_EQ(result.err.find('\n'), result.err.size() - 1) << "one line: " << result.err;
  }
}

TEST(CommandLineTest, AllThatIsMissingOfAModelIsNamed) {
  const TempDirectory empty;
  const ProgramResult result = Intermix({"generate", "--model", empty.path(), "--prompt", "a"});
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_THAT(result.err, StartsWith("intermix: the job cannot start, for 2 reasons:\n"));
  EXPECT_THAT(result.err, HasSubstr(empty.path() + "/config.json: No such file"));
  EXPECT_THAT(result.err, HasSubstr(empty.path() + "/model.safetensors: No such file"));
}

TEST(CommandLineTest, PromptsComeFromFilesToo) {
  const TempDirectory directory;
  std::ofstream(directory / "prompt") << "And it came to pass";
  const std::vector<std::string> common = {"generate", "--model", kModel, "--max-tokens", "8"};
  const auto ask = [&common](std::vector<std::string> prompt) {
    prompt.insert(prompt.begin(), common.begin(), common.end());
    return Intermix(prompt).out;
  };
  const std::string answer = ask({"--prompt", "And it came to pass"});
  EXPECT_GT(answer.size(), 8u);
  EXPECT_EQ(ask({"--prompt-file", directory / "prompt"}), answer);
  EXPECT_EQ(ask({"--token-ids", "1", "300", "359", "478", "292", "605"}), answer);
  EXPECT_NE(ask({"--prompt", "And it came to pass", "--no-special-tokens"}), answer);
}

TEST(PortFileTest, HoldsTheAddress) {
  const TempDirectory directory;
  const std::string path = directory / "address";
  ASSERT_TRUE(WritePortFile(path, {.host = "::1", .port = 7}).ok());
  EXPECT_EQ(ReadFile(path), "[::1]:7\n");
  ASSERT_TRUE(WritePortFile(path, {.port = 8}).ok());
  EXPECT_EQ(ReadFile(path), "127.0.0.1:8\n");
  EXPECT_THAT(ListNames(directory.path()), ::testing::ElementsAre("address"));
  EXPECT_TRUE(WritePortFile("", {.port = 8}).ok());
}

}  // namespace
}  // namespace intermix
