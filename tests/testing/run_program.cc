#include "tests/testing/run_program.h"

#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>

#include "kernels/core/check.h"
#include "tests/testing/model_files.h"

namespace intermix {
namespace {

// In the child, after fork: never returns.
[[noreturn]] void Become(const ProgramOptions& options, const std::string& out,
                         const std::string& err) {
  prctl(PR_SET_PDEATHSIG, SIGTERM);  // if the test itself is killed
  if (freopen(out.c_str(), "w", stdout) == nullptr) _exit(125);
  if (freopen(err.c_str(), "w", stderr) == nullptr) _exit(125);
  if (options.pending_signal != 0) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, options.pending_signal);
    sigprocmask(SIG_BLOCK, &set, nullptr);
    kill(getpid(), options.pending_signal);  // pending for the process, whichever thread takes it
  }
  alarm(static_cast<unsigned>(options.limit_seconds));  // outlives exec
  std::vector<char*> arguments;
  for (const std::string& argument : options.arguments) {
    arguments.push_back(const_cast<char*>(argument.c_str()));
  }
  arguments.push_back(nullptr);
  execv(arguments[0], arguments.data());
  _exit(126);
}

}  // namespace

ProgramResult RunProgram(const ProgramOptions& options) {
  const TempDirectory directory;
  const pid_t child = fork();
  CHECK_GE(child, 0);
  if (child == 0) Become(options, directory / "out", directory / "err");
  int status = 0;
  CHECK_EQ(waitpid(child, &status, 0), child);
  ProgramResult result{.out = ReadFile(directory / "out"), .err = ReadFile(directory / "err")};
  if (WIFEXITED(status)) result.exit_code = WEXITSTATUS(status);
  if (WIFSIGNALED(status)) result.signal = WTERMSIG(status);
  return result;
}

}  // namespace intermix
