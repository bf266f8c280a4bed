// The repository itself obeys its rules, and is formatted as .clang-format says.
#include <cstdio>
#include <cstdlib>

#include "gtest/gtest.h"
#include "tests/lint/rules.h"

namespace intermix::lint {
namespace {

// What `command` prints; its exit code in `exit_code`.
std::string RunCommand(const std::string& command, int& exit_code) {
  std::string output;
  FILE* pipe = popen((command + " 2>&1").c_str(), "r");
  if (pipe == nullptr) return output;
  char buffer[4096];
  while (fgets(buffer, sizeof(buffer), pipe) != nullptr) output += buffer;
  exit_code = pclose(pipe);
  return output;
}

TEST(RepositoryTest, ObeysTheRules) {
  for (const Violation& violation : CheckTree(INTERMIX_SOURCE_DIR)) {
    ADD_FAILURE() << violation.ToString();
  }
}

TEST(RepositoryTest, IsFormatted) {
  int exit_code = 0;
  const std::string version = RunCommand("clang-format --version", exit_code);
  if (version.find("version 14.") == std::string::npos) {
    GTEST_SKIP() << "needs clang-format 14, whose output other versions do not match";
  }
  const std::string output =
      RunCommand("cd '" INTERMIX_SOURCE_DIR
                 "' && find kernels comm moe runtime launch tests -name '*.h' -o "
                 "-name '*.cc' -o -name '*.cu' | xargs clang-format --dry-run "
                 "-Werror",
                 exit_code);
  EXPECT_EQ(exit_code, 0) << output;
}

}  // namespace
}  // namespace intermix::lint
