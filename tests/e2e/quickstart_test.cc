// launch/quickstart as a newcomer runs it: what it prints, what a second run reuses, and that
// neither its end nor Ctrl-C leaves a process behind.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <filesystem>
#include <functional>
#include <thread>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/model_files.h"

namespace intermix {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// What can be read of a file; a process that ends meanwhile takes its /proc files with it.
std::string ReadAll(const fs::path& path) {
  std::string text;
  FILE* file = fopen(path.c_str(), "rb");
  if (file == nullptr) return text;
  char buffer[4096];
  while (const size_t n = fread(buffer, 1, sizeof(buffer), file)) text.append(buffer, n);
  fclose(file);
  return text;
}

// Asks `done` every 20 ms until it says yes or `seconds` have passed.
bool WaitFor(double seconds, const std::function<bool()>& done) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
  while (!done()) {
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  return true;
}

// A running launch/quickstart, the leader of its own session, as in a terminal of its own.
class Quickstart {
 public:
  Quickstart() {
    pid_ = fork();
    if (pid_ != 0) return;
    setsid();
    const std::string out = output_file();
    if (freopen(out.c_str(), "w", stdout) == nullptr) _exit(125);
    if (dup2(STDOUT_FILENO, STDERR_FILENO) < 0 || chdir("/") != 0) _exit(125);
    const std::string script = INTERMIX_SOURCE_DIR "/launch/quickstart";
    execl(script.c_str(), script.c_str(), "--no-install", nullptr);
    _exit(126);
  }
  ~Quickstart() {
    if (!ended_) kill(-pid_, SIGKILL);
  }

  std::string output() const { return ReadAll(output_file()); }

  // What Ctrl-C does: every process of the terminal's foreground group gets SIGINT.
  void Interrupt() const { kill(-pid_, SIGINT); }

  // The exit code; -1 where it did not end in time or was killed.
  int Wait(double seconds) {
    int status = 0;
    ended_ = WaitFor(seconds, [&] { return waitpid(pid_, &status, WNOHANG) == pid_; });
    return ended_ && WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }

  // Command lines of the job's processes: they name the port file, which names the script's pid.
  std::vector<std::string> ProcessesLeft() const {
    std::vector<std::string> left;
    const std::string port_file = "address." + std::to_string(pid_);
    std::error_code error;
    for (const fs::directory_entry& entry : fs::directory_iterator("/proc", error)) {
      const std::string command = ReadAll(entry.path() / "cmdline");
      if (command.find(port_file) != std::string::npos) left.push_back(command);
    }
    return left;
  }

 private:
  std::string output_file() const { return directory_ / "out"; }

  TempDirectory directory_;
  pid_t pid_ = -1;
  bool ended_ = false;
};

// Something else that listens where the server would by default.
class TakenPort {
 public:
  explicit TakenPort(uint16_t port) : socket_(socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    const int on = 1;  // what an earlier server left in TIME_WAIT is no obstacle
    setsockopt(socket_, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    // Where this fails, somebody else has taken the port already.
    if (bind(socket_, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0) {
      listen(socket_, 1);
    }
  }
  ~TakenPort() { close(socket_); }
  TakenPort(const TakenPort&) = delete;
  TakenPort& operator=(const TakenPort&) = delete;

 private:
  int socket_;
};

TEST(QuickstartTest, AnswersOnAFreePortStopsCleanlyAndReusesItsWork) {
  const TakenPort taken(50051);
  fs::remove_all(INTERMIX_SOURCE_DIR "/build/quickstart");
  for (bool again : {false, true}) {
    Quickstart quickstart;
    EXPECT_EQ(quickstart.Wait(180), 0) << quickstart.output();
    const std::string output = quickstart.output();
    EXPECT_THAT(output, HasSubstr(again ? "is there already" : "quantising 100%"));
    EXPECT_THAT(output, HasSubstr("SERVING"));
    EXPECT_THAT(output, Not(HasSubstr("127.0.0.1:50051")));
    EXPECT_THAT(output, HasSubstr(", when the king of Israel saw that the king was come"));
    EXPECT_THAT(output, HasSubstr("64 generated in"));
    EXPECT_THAT(output, HasSubstr("ep 2 x etp 1"));
    EXPECT_THAT(output, HasSubstr("stopped cleanly"));
    EXPECT_THAT(quickstart.ProcessesLeft(), IsEmpty());
  }
}

TEST(QuickstartTest, CtrlCLeavesNoProcessBehind) {
  Quickstart quickstart;
  ASSERT_TRUE(WaitFor(180, [&] {
    return quickstart.output().find("intermix client generate") != std::string::npos;
  })) << quickstart.output();
  EXPECT_FALSE(quickstart.ProcessesLeft().empty());
  quickstart.Interrupt();
  EXPECT_EQ(quickstart.Wait(60), 130) << quickstart.output();
  EXPECT_TRUE(WaitFor(20, [&] { return quickstart.ProcessesLeft().empty(); }));
}

}  // namespace
}  // namespace intermix
