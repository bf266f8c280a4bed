// Watchdog: ends this process when it waits for a peer that is gone, so that no rank hangs and
// mpirun ends the rest of the job.
//
// A thread of its own looks every few hundred milliseconds at two things: whether the work that the
// engine thread began has gone on for longer than allowed, and what the transports report. Then it
// says so, tells the transports to let go and ends the process with the same sentence: said first,
// since letting go may take long, and may wake a thread that ends the process for a lesser reason.
// It calls nothing that a stuck device could block. Methods may be called from any thread.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <thread>

namespace intermix {

class Watchdog {
 public:
  struct Options {
    std::string who;                     // begins the sentence: "rank 3"
    std::chrono::milliseconds limit{0};  // of one piece of work; 0: none
    std::chrono::milliseconds poll{200};
    // Tells of the problem before transports let go; by default on standard error.
    std::function<void(const std::string& sentence)> say;
    // Does not return; by default intermix::Fatal.
    std::function<void(const std::string& sentence)> end;
  };
  explicit Watchdog(Options options);
  ~Watchdog();
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

  // A transport under watch.
  struct Transport {
    std::function<std::string()> problem;  // what went wrong; "" while nothing did
    std::function<std::string()> latest;   // what was asked of it last; "" where nothing was
    std::function<void()> let_go;          // gives up what is under way; may block for long
  };
  // `transport` is called until Forget(id) returned.
  int Watch(Transport transport);
  void Forget(int id);

  // Work that must end within the limit; one at a time.
  class Work {
   public:
    Work(Watchdog& watchdog, std::string what);
    ~Work();
    Work(const Work&) = delete;
    Work& operator=(const Work&) = delete;

   private:
    Watchdog& watchdog_;
  };

 private:
  using Clock = std::chrono::steady_clock;

  void Run();
  std::string FindProblem() const;  // under the mutex
  void LetGo();                     // under the mutex

  const Options options_;
  std::mutex mutex_;
  std::condition_variable stopped_;
  bool stop_ = false;
  int next_id_ = 0;
  std::map<int, Transport> transports_;
  std::string work_;  // under way; "" where there is none
  Clock::time_point work_began_;
  std::thread thread_;
};

}  // namespace intermix
