// BackgroundProcess: a program that runs while a test talks to it, an MPI job say. Whatever the
// test does, it is gone with the object. One thread.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "tests/testing/model_files.h"

namespace intermix {

class BackgroundProcess {
 public:
  // Starts it; the first of `command` is the program's path. It reads `input`: a file, a FIFO that
  // the caller has open, or a terminal.
  explicit BackgroundProcess(const std::vector<std::string>& command,
                             const std::string& input = "/dev/null");
  ~BackgroundProcess();
  BackgroundProcess(const BackgroundProcess&) = delete;
  BackgroundProcess& operator=(const BackgroundProcess&) = delete;

  // Waits until the file is there (four minutes at most, and no longer than the program lives) and
  // returns its first line; a test failure, with the program's words, where it never comes.
  std::string AwaitLine(const std::string& path);

  // Waits for the program to end, four minutes at most. Its exit code; 128 + signal.
  int Wait();

  pid_t pid() const { return pid_; }
  std::string out() const;
  std::string err() const;

 private:
  bool Ended();  // without waiting

  TempDirectory directory_;
  pid_t pid_ = -1;
  bool reaped_ = false;
  int status_ = 0;
};

}  // namespace intermix
