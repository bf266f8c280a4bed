// Runs a program to its end, for tests of what a user sees. One thread.
#pragma once

#include <string>
#include <vector>

namespace intermix {

struct ProgramResult {
  int exit_code = -1;  // -1: ended by `signal`
  int signal = 0;
  std::string out;
  std::string err;
};

struct ProgramOptions {
  std::vector<std::string> arguments;  // the first is the program's path
  int pending_signal = 0;              // blocked and waiting when the program starts; 0: none
  int limit_seconds = 240;             // then it is killed
};

ProgramResult RunProgram(const ProgramOptions& options);

}  // namespace intermix
