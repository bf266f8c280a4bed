#include "tests/testing/background_process.h"

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <thread>

#include "gtest/gtest.h"
#include "kernels/core/check.h"

namespace intermix {
namespace {

constexpr int kPolls = 24000;  // four minutes
constexpr auto kPause = std::chrono::milliseconds(10);

// In the child, after fork: never returns.
[[noreturn]] void Become(const std::vector<std::string>& command, const std::string& in,
                         const std::string& out, const std::string& err) {
  prctl(PR_SET_PDEATHSIG, SIGTERM);  // if the test itself is killed
  if (freopen(in.c_str(), "r", stdin) == nullptr) _exit(125);
  if (freopen(out.c_str(), "w", stdout) == nullptr) _exit(125);
  if (freopen(err.c_str(), "w", stderr) == nullptr) _exit(125);
  std::vector<char*> arguments;
  for (const std::string& argument : command) {
    arguments.push_back(const_cast<char*>(argument.c_str()));
  }
  arguments.push_back(nullptr);
  execv(arguments[0], arguments.data());
  _exit(126);
}

}  // namespace

BackgroundProcess::BackgroundProcess(const std::vector<std::string>& command,
                                     const std::string& input) {
  // There from the start, for who looks before the child has come so far.
  for (const char* name : {"out", "err"}) std::ofstream(directory_ / name).flush();
  pid_ = fork();
  CHECK_GE(pid_, 0);
  if (pid_ == 0) Become(command, input, directory_ / "out", directory_ / "err");
}

BackgroundProcess::~BackgroundProcess() {
  if (Ended()) return;
  kill(pid_, SIGTERM);  // mpirun then ends its ranks, by force after a second
  for (int i = 0; i < kPolls && !Ended(); ++i) std::this_thread::sleep_for(kPause);
  if (Ended()) return;
  kill(pid_, SIGKILL);
  waitpid(pid_, &status_, 0);
}

bool BackgroundProcess::Ended() {
  if (!reaped_) reaped_ = waitpid(pid_, &status_, WNOHANG) == pid_;
  return reaped_;
}

std::string BackgroundProcess::AwaitLine(const std::string& path) {
  for (int i = 0; i < kPolls; ++i) {
    if (std::filesystem::exists(path)) {
      std::ifstream file(path);
      std::string line;
      std::getline(file, line);
      return line;
    }
    if (Ended()) break;
    std::this_thread::sleep_for(kPause);
  }
  ADD_FAILURE() << path << " did not come; the program said:\n" << out() << err();
  return "";
}

int BackgroundProcess::Wait() {
  for (int i = 0; i < kPolls && !Ended(); ++i) std::this_thread::sleep_for(kPause);
  EXPECT_TRUE(Ended()) << "the program does not end; it said:\n" << out() << err();
  return WIFSIGNALED(status_) ? 128 + WTERMSIG(status_) : WEXITSTATUS(status_);
}

std::string BackgroundProcess::out() const { return ReadFile(directory_ / "out"); }
std::string BackgroundProcess::err() const { return ReadFile(directory_ / "err"); }

}  // namespace intermix
