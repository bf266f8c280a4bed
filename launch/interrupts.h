// Interrupts: what Ctrl-C means to an interactive program. It stops the answer that is under way;
// once more, or where there is none, it ends the program (exit code 130), as SIGTERM always does
// (143). Make it before any other thread, so that all threads inherit the blocked signals.
#pragma once

#include <atomic>
#include <functional>
#include <mutex>
#include <thread>

namespace intermix {

class Interrupts {
 public:
  Interrupts();
  ~Interrupts();  // the signals stay blocked
  Interrupts(const Interrupts&) = delete;
  Interrupts& operator=(const Interrupts&) = delete;

  // From here to End, Ctrl-C calls `stop`, which must return soon and use nothing of this class.
  void Begin(std::function<void()> stop);
  // Whether it was called; it is not running any more.
  bool End();

 private:
  void Run();

  std::mutex mutex_;
  std::function<void()> stop_;  // guarded by mutex_; none: nothing is under way
  bool stopped_ = false;        // guarded by mutex_
  std::atomic<bool> ending_{false};
  std::thread thread_;
};

}  // namespace intermix
