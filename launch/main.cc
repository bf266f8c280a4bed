// The one binary: `intermix serve | generate | client | status | quantize | perplexity`.
#include "CLI/CLI.hpp"
#include "launch/commands.h"

int main(int argc, char** argv) {
  CLI::App app(
      "Intermix: distributed inference of mixture-of-experts models on integer-scale ranks");
  app.set_version_flag("--version", "intermix " INTERMIX_VERSION);
  app.require_subcommand(1);
  int exit_code = 0;
  intermix::AddQuantizeCommand(app, &exit_code);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    // A usage error is 2, like the shell's; --help and --version are 0.
    return app.exit(error) == 0 ? 0 : 2;
  }
  return exit_code;
}
