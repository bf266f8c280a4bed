#include "launch/signal_watcher.h"

#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <cstdio>
#include <utility>

#include "absl/time/clock.h"

namespace intermix {
namespace {

// Ends the process as an unhandled signal would, without the work of exit(); where it is a rank of
// a job, mpirun then ends the others.
[[noreturn]] void EndNow(int signal, const char* why) {
  std::fprintf(stderr, "intermix: %s\n", why);
  _exit(128 + signal);
}

// A terminal's Ctrl-C reaches a rank twice, from the terminal and from mpirun.
constexpr absl::Duration kEcho = absl::Milliseconds(500);

}  // namespace

sigset_t StopSignals() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  sigaddset(&set, SIGTERM);
  return set;
}

SignalWatcher::SignalWatcher() {
  const sigset_t set = StopSignals();
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
}

SignalWatcher::~SignalWatcher() {
  if (!started_) return;
  ending_ = true;
  Wake();
  thread_.join();
}

// By a signal to the thread alone, which then looks at the flags.
void SignalWatcher::Wake() { pthread_kill(thread_.native_handle(), SIGTERM); }

void SignalWatcher::Start(absl::Duration grace) {
  grace_ = grace;
  started_ = true;
  thread_ = std::thread([this] { Run(); });
}

void SignalWatcher::SetAction(std::function<void()> action) {
  const std::lock_guard lock(mutex_);
  action_ = std::move(action);
  if (acted_) action_();
}

void SignalWatcher::Trigger() {
  if (!triggered_.exchange(true)) Wake();
}

void SignalWatcher::Act() {
  const std::lock_guard lock(mutex_);
  if (std::exchange(acted_, true)) return;
  if (action_) action_();
}

void SignalWatcher::Run() {
  const sigset_t set = StopSignals();
  int signal = 0;
  sigwait(&set, &signal);
  if (ending_) return;
  if (!triggered_.exchange(true)) {  // not Trigger's doing
    signal_ = signal;
    const std::lock_guard lock(mutex_);
    if (!action_) EndNow(signal, "stopped before it was ready");
  }
  const absl::Time first = absl::Now();
  Act();
  for (absl::Duration left = grace_; left > absl::ZeroDuration();
       left = first + grace_ - absl::Now()) {
    const timespec timeout = absl::ToTimespec(left);
    const int again = sigtimedwait(&set, nullptr, &timeout);
    if (ending_) return;
    if (again > 0 && absl::Now() - first > kEcho) EndNow(again, "stopped without waiting");
  }
  EndNow(signal, "did not stop in time; giving up");
}

}  // namespace intermix
