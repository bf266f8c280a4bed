// The subcommands of the `intermix` binary. Each Add function registers one with its options and a
// callback that does the work and sets *exit_code: 0 success, 1 a refused input or a failure (one
// sentence on stderr). CLI11 runs the callback inside main's parse, after all options are checked.
#pragma once

#include "CLI/CLI.hpp"

namespace intermix {

void AddQuantizeCommand(CLI::App& app, int* exit_code);

}  // namespace intermix
