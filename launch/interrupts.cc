#include "launch/interrupts.h"

#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <cstdio>
#include <utility>

#include "launch/signal_watcher.h"

namespace intermix {

Interrupts::Interrupts() {
  const sigset_t set = StopSignals();
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  thread_ = std::thread([this] { Run(); });
}

Interrupts::~Interrupts() {
  ending_ = true;
  pthread_kill(thread_.native_handle(), SIGTERM);  // wakes the thread, nothing else
  thread_.join();
}

void Interrupts::Begin(std::function<void()> stop) {
  const std::lock_guard lock(mutex_);
  stop_ = std::move(stop);
  stopped_ = false;
}

bool Interrupts::End() {
  const std::lock_guard lock(mutex_);
  stop_ = nullptr;
  return stopped_;
}

void Interrupts::Run() {
  const sigset_t set = StopSignals();
  for (;;) {
    int signal = 0;
    sigwait(&set, &signal);
    if (ending_) return;
    const std::lock_guard lock(mutex_);
    if (signal != SIGINT || !stop_ || stopped_) {
      std::fputc('\n', stderr);
      _exit(128 + signal);
    }
    stopped_ = true;
    stop_();
  }
}

}  // namespace intermix
