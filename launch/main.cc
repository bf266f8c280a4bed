// The one binary: `intermix serve | generate | client | status | quantize | upcycle | ...`.
#include <cstdlib>
#include <sstream>

#include "CLI/CLI.hpp"
#include "kernels/cuda/cuda_backend.h"
#include "launch/commands.h"

namespace {

// Whether mpirun (Open MPI, MPICH) or srun started this process as a rank other than 0. All ranks
// get the same command line; one of them is enough to say what is wrong with it.
bool IsLaterRank() {
  for (const char* name : {"OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK", "SLURM_PROCID"}) {
    const char* rank = std::getenv(name);
    if (rank != nullptr && std::atoi(rank) > 0) return true;
  }
  return false;
}

void AddCommands(CLI::App& app, int* exit_code) {
  intermix::AddServeCommand(app, exit_code);
  intermix::AddGenerateCommand(app, exit_code);
  CLI::App* client = app.add_subcommand("client", "Talk to a server");
  client->require_subcommand(1);
  intermix::AddClientGenerateCommand(*client, exit_code);
  intermix::AddClientChatCommand(*client, exit_code);
  intermix::AddClientStatusCommand(*client, exit_code);
  intermix::AddClientHealthCommand(*client, exit_code);
  intermix::AddClientAdminCommands(*client, exit_code);
  intermix::AddClientStatusCommand(app, exit_code);
  intermix::AddPerplexityCommand(app, exit_code);
  intermix::AddQuantizeCommand(app, exit_code);
  intermix::AddUpcycleCommand(app, exit_code);
  intermix::AddBenchCommand(app, exit_code);
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app(
      "Intermix: distributed inference of mixture-of-experts models on integer-scale ranks");
  app.set_version_flag("--version", [] {
    return "intermix " INTERMIX_VERSION " (" + intermix::CudaBuildDescription() + ")";
  });
  app.require_subcommand(1);
  int exit_code = 0;
  AddCommands(app, &exit_code);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    std::ostringstream muted;
    const bool later = IsLaterRank();
    const int code = later ? app.exit(error, muted, muted) : app.exit(error);
    return code == 0 ? 0 : 2;  // a usage error is 2, like the shell's; --help and --version are 0
  }
  return exit_code;
}
