// launch/quickstart as a newcomer runs it: what it prints, what a second run reuses, and that
// neither its end nor Ctrl-C leaves a process behind.
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
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
#include "kernels/core/check.h"

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

// Longer than anything here takes on the slowest machine.
constexpr double kLong = 400.0;

// A running launch/quickstart, the leader of its own session, as in a terminal of its own. It
// writes into a pipe that holds one write at a time, so that it never gets far ahead of what was
// read.
class Quickstart {
 public:
  Quickstart() {
    int ends[2];
    CHECK_EQ(pipe2(ends, O_DIRECT | O_CLOEXEC), 0);            // a packet for each write
    CHECK_GE(fcntl(ends[1], F_SETPIPE_SZ, getpagesize()), 0);  // room for one of them
    pid_ = fork();
    if (pid_ == 0) Become(ends[1]);
    close(ends[1]);
    output_end_ = ends[0];
  }
  ~Quickstart() {
    if (!ended_) kill(-pid_, SIGKILL);
    close(output_end_);
  }

  // What was read so far.
  const std::string& output() const { return output_; }

  // Reads until there is `text`, and no further.
  bool WaitForOutput(const std::string& text) {
    return WaitFor(kLong, [&] {
      while (output_.find(text) == std::string::npos) {
        if (!ReadOne()) return false;
      }
      return true;
    });
  }

  // What Ctrl-C does: every process of the terminal's foreground group gets SIGINT.
  void Interrupt() const { kill(-pid_, SIGINT); }

  // The exit code; -1 where it did not end in time or was killed. Reads all that is left.
  int Wait() {
    int status = 0;
    ended_ = WaitFor(kLong, [&] {
      const bool ended = waitpid(pid_, &status, WNOHANG) == pid_;
      while (ReadOne()) continue;
      return ended;
    });
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
  // In the child, after fork.
  [[noreturn]] static void Become(int output) {
    setsid();
    if (dup2(output, STDOUT_FILENO) < 0 || dup2(output, STDERR_FILENO) < 0) _exit(125);
    if (chdir("/") != 0) _exit(125);
    const std::string script = INTERMIX_SOURCE_DIR "/launch/quickstart";
    execl(script.c_str(), script.c_str(), "--no-install", nullptr);
    _exit(126);
  }

  // One packet of output, where there is one.
  bool ReadOne() {
    pollfd ready = {.fd = output_end_, .events = POLLIN, .revents = 0};
    char buffer[4096];  // PIPE_BUF, which a packet never exceeds
    if (poll(&ready, 1, 20) != 1 || (ready.revents & POLLIN) == 0) return false;
    const ssize_t size = read(output_end_, buffer, sizeof(buffer));
    if (size <= 0) return false;
    output_.append(buffer, static_cast<size_t>(size));
    return true;
  }

  pid_t pid_ = -1;
  int output_end_ = -1;
  std::string output_;
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
    held_ = bind(socket_, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0 &&
            listen(socket_, 1) == 0;
  }
  ~TakenPort() { close(socket_); }
  TakenPort(const TakenPort&) = delete;
  TakenPort& operator=(const TakenPort&) = delete;
  bool held() const { return held_; }  // false: somebody else has it, and may give it back

 private:
  int socket_;
  bool held_ = false;
};

TEST(QuickstartTest, AnswersOnAFreePortStopsCleanlyAndReusesItsWork) {
  const TakenPort taken(50051);
  fs::remove_all(INTERMIX_SOURCE_DIR "/build/quickstart");
  for (bool again : {false, true}) {
    Quickstart quickstart;
    EXPECT_EQ(quickstart.Wait(), 0) << quickstart.output();
    const std::string& output = quickstart.output();
    EXPECT_THAT(output, HasSubstr(again ? "is there already" : "quantising 100%"));
    EXPECT_THAT(output, HasSubstr("SERVING"));
    if (taken.held()) {
      EXPECT_THAT(output, Not(HasSubstr("127.0.0.1:50051")));
    }
    EXPECT_THAT(output, HasSubstr(", when the king of Israel saw that the king was come"));
    EXPECT_THAT(output, HasSubstr("64 generated in"));
    EXPECT_THAT(output, HasSubstr("ep 2 x etp 1"));
    EXPECT_THAT(output, HasSubstr("stopped cleanly"));
    EXPECT_THAT(quickstart.ProcessesLeft(), IsEmpty());
  }
}

TEST(QuickstartTest, CtrlCLeavesNoProcessBehind) {
  Quickstart quickstart;
  ASSERT_TRUE(quickstart.WaitForOutput("intermix client generate")) << quickstart.output();
  EXPECT_FALSE(quickstart.ProcessesLeft().empty()) << "the answer waits for its reader";
  quickstart.Interrupt();
  EXPECT_EQ(quickstart.Wait(), 130) << quickstart.output();
  EXPECT_TRUE(WaitFor(kLong, [&] { return quickstart.ProcessesLeft().empty(); }));
}

}  // namespace
}  // namespace intermix
