// `intermix upcycle`: a dense LLaMA directory in, a Mixtral directory that says the same out.
#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/str_format.h"
#include "launch/commands.h"
#include "launch/postponed_interrupts.h"
#include "launch/progress_bar.h"
#include "runtime/checkpoint/upcycle.h"

namespace intermix {
namespace {

int Run(UpcycleOptions& options) {
  absl::StatusOr<UpcycleSummary> summary = absl::UnknownError("");
  {
    const PostponedInterrupts interrupts;
    ProgressBar bar("upcycling");
    options.progress = [&bar](int64_t done, int64_t total) { bar.Update(done, total); };
    options.cancelled = [&interrupts] { return interrupts.pending(); };
    summary = UpcycleCheckpoint(options);
  }
  if (!summary.ok()) {
    absl::FPrintF(stderr, "intermix upcycle: %s\n", std::string(summary.status().message()));
    return 1;
  }
  absl::PrintF("%s: %d experts, %d for each token, %s -> %s\n", options.out_directory,
               options.num_experts, options.top_k, BytesText(summary->bytes_in),
               BytesText(summary->bytes_out));
  return 0;
}

}  // namespace

void AddUpcycleCommand(CLI::App& app, int* exit_code) {
  auto options = std::make_shared<UpcycleOptions>();
  CLI::App* command = app.add_subcommand(
      "upcycle",
      "Turn a dense LLaMA directory into a Mixtral whose text is the same: every expert computes "
      "the dense model's MLP, each arranged in another way, and the router is random");
  command->add_option("--model", options->model_directory, "directory with a dense LLaMA")
      ->required();
  command->add_option("--out", options->out_directory, "directory to create")->required();
  command->add_option("--experts", options->num_experts, "experts of a layer")
      ->capture_default_str();
  command->add_option("--top-k", options->top_k, "experts of a token")->capture_default_str();
  command->add_option("--seed", options->seed, "another router, other arrangements")
      ->capture_default_str();
  command->callback([options, exit_code] { *exit_code = Run(*options); });
}

}  // namespace intermix
