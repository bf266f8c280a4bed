// The subcommands of the `intermix` binary. Each Add function registers one with its options and a
// callback that does the work and sets *exit_code: 0 success, 1 a refused input or a failure (one
// sentence on stderr). CLI11 runs the callback inside main's parse, after all options are checked.
#pragma once

#include "CLI/CLI.hpp"

namespace intermix {

void AddServeCommand(CLI::App& app, int* exit_code);
void AddGenerateCommand(CLI::App& app, int* exit_code);
void AddPerplexityCommand(CLI::App& app, int* exit_code);
void AddQuantizeCommand(CLI::App& app, int* exit_code);
void AddUpcycleCommand(CLI::App& app, int* exit_code);
void AddBenchCommand(CLI::App& app, int* exit_code);

// Of `intermix client`; AddClientStatusCommand also of `intermix` itself.
void AddClientGenerateCommand(CLI::App& client, int* exit_code);
void AddClientChatCommand(CLI::App& client, int* exit_code);
void AddClientStatusCommand(CLI::App& client, int* exit_code);
void AddClientHealthCommand(CLI::App& client, int* exit_code);
void AddClientAdminCommands(CLI::App& client, int* exit_code);

}  // namespace intermix
