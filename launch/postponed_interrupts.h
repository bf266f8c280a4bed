// PostponedInterrupts: while it lives, Ctrl-C and SIGTERM wait, so that work in progress can be
// undone first; when it goes, a signal that came takes its usual effect. For the thread that makes
// it, before any other is started.
#pragma once

#include <csignal>

namespace intermix {

class PostponedInterrupts {
 public:
  PostponedInterrupts() {
    sigemptyset(&signals_);
    sigaddset(&signals_, SIGINT);
    sigaddset(&signals_, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &signals_, &before_);
  }
  ~PostponedInterrupts() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  PostponedInterrupts(const PostponedInterrupts&) = delete;
  PostponedInterrupts& operator=(const PostponedInterrupts&) = delete;

  bool pending() const {
    sigset_t waiting;
    sigpending(&waiting);
    return sigismember(&waiting, SIGINT) == 1 || sigismember(&waiting, SIGTERM) == 1;
  }

 private:
  sigset_t signals_;
  sigset_t before_;
};

}  // namespace intermix
