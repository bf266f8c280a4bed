// The README's Python client, taken from the README, against two ranks. It needs a Python that has
// grpcio and protobuf: $INTERMIX_PYTHON, python3 or, where that is another, Debian's; where none of
// them has, it is skipped and says so.
#include <algorithm>
#include <cstdlib>
#include <sstream>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/served_model.h"

namespace intermix {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

ProgramResult Shell(const std::string& script) {
  return RunProgram({.arguments = {"/bin/sh", "-ec", script}});
}

// The indented lines of the README's block that holds `first`, from it on.
std::string Block(const std::string& first) {
  std::istringstream readme(ReadFile(INTERMIX_SOURCE_DIR "/README.md"));
  std::string block;
  for (std::string line; std::getline(readme, line);) {
    const bool inside = line.starts_with("    ") || (line.empty() && !block.empty());
    if (!inside && !block.empty()) break;
    if (!inside || (block.empty() && !line.starts_with("    " + first))) continue;
    block += (line.empty() ? line : line.substr(4)) + "\n";
  }
  return block;
}

// A Python that can import what the client needs; empty: there is none.
std::string FindPython() {
  const char* chosen = std::getenv("INTERMIX_PYTHON");
  for (const std::string python : {chosen != nullptr ? chosen : "python3", "/usr/bin/python3"}) {
    if (Shell(python + " -c 'import grpc, google.protobuf'").exit_code == 0) return python;
  }
  return "";
}

TEST(PythonClientTest, WorksAsTheReadmeShowsIt) {
  const std::string python = FindPython();
  if (python.empty()) {
    GTEST_SKIP() << "python3 cannot import grpc: apt install python3-grpcio python3-protobuf, or "
                 << "name another one by INTERMIX_PYTHON";
  }
  const TempDirectory directory;
  const std::string client = Block("# client.py");
  EXPECT_LE(std::count(client.begin(), client.end(), '\n'), 40);
  WriteFile(directory / "client.py", client);
  const ProgramResult stubs =
      Shell("cd " + directory.path() + "; ln -s " INTERMIX_SOURCE_DIR "/proto proto\n" +
            Block("protoc "));
  ASSERT_EQ(stubs.exit_code, 0) << stubs.err;

  const Served served;
  const auto ask = [&](const std::string& address, const std::string& prompt) {
    return Shell(python + " " + (directory / "client.py") + " " + address + " '" + prompt + "'");
  };
  const ProgramResult answer = ask(served.address(), "And it came to pass");
  EXPECT_EQ(answer.exit_code, 0) << answer.err;
  EXPECT_THAT(answer.err, HasSubstr(" tokens]"));
  EXPECT_EQ(
      answer.out + "\n",
      served.Client({"generate", "--prompt", "And it came to pass", "--max-tokens", "64"}).out);
  const ProgramResult refused = ask("127.0.0.1:1", "And");
  EXPECT_EQ(refused.exit_code, 1);
  EXPECT_THAT(refused.err, StartsWith("UNAVAILABLE: "));
}

}  // namespace
}  // namespace intermix
