// SignalWatcher: turns SIGINT, SIGTERM, or a call that asks for the same, into one call on a thread
// of its own.
//
// Make it before any other thread, so that all threads inherit the blocked signals. The first
// signal runs the action; a second one, or a stop that takes longer than the grace, ends the
// process without more ado. Before there is an action, a signal ends the process at once.
#pragma once

#include <signal.h>

#include <atomic>
#include <functional>
#include <mutex>
#include <optional>
#include <thread>

#include "absl/time/time.h"

namespace intermix {

// SIGINT and SIGTERM: what asks a program to stop.
sigset_t StopSignals();

class SignalWatcher {
 public:
  SignalWatcher();
  ~SignalWatcher();  // the signals stay blocked
  SignalWatcher(const SignalWatcher&) = delete;
  SignalWatcher& operator=(const SignalWatcher&) = delete;

  // Starts watching; until then signals wait.
  void Start(absl::Duration grace);

  // Sets what a signal does, [] {} for nothing; runs it now where a signal came before. It must
  // return soon, and use nothing of this class. The action that was set before is not running any
  // more when this returns.
  void SetAction(std::function<void()> action);

  // Any thread, once started: as the first signal, but that it waits for an action. Idempotent.
  void Trigger();

  // The signal that came first; 0: none, or Trigger did.
  int signal() const { return signal_; }

 private:
  void Run();
  void Act();
  void Wake();

  std::mutex mutex_;
  std::function<void()> action_;        // guarded by mutex_
  bool acted_ = false;                  // guarded by mutex_: or is to, once there is an action
  std::atomic<bool> triggered_{false};  // by a signal or a call
  bool started_ = false;                // of the owner's thread
  absl::Duration grace_;
  std::atomic<int> signal_{0};
  std::atomic<bool> ending_{false};
  std::thread thread_;
};

}  // namespace intermix
