// `intermix quantize`: a Hugging Face directory in, a quantised directory out.
#include <cstdio>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "launch/commands.h"
#include "launch/postponed_interrupts.h"
#include "launch/progress_bar.h"
#include "launch/quant_options.h"
#include "runtime/checkpoint/quantize_checkpoint.h"

namespace intermix {
namespace {

struct Options {
  std::string model;
  std::string out;
  bool force = false;
  QuantOptions quant;
};

absl::StatusOr<QuantizeSummary> Quantize(const Options& options, const QuantSpec& spec) {
  const PostponedInterrupts interrupts;
  ProgressBar bar("quantising");
  return QuantizeCheckpoint(
      {.model_directory = options.model,
       .out_directory = options.out,
       .spec = spec,
       .force = options.force,
       .progress = [&bar](const QuantizeProgress& p) { bar.Update(p.bytes_done, p.bytes_total); },
       .cancelled = [&interrupts] { return interrupts.pending(); }});
}

void PrintSummary(const Options& options, const QuantizeSummary& summary, double seconds) {
  std::string kinds;
  if (summary.num_folded > 0) kinds = absl::StrFormat(" (%d folded)", summary.num_folded);
  absl::PrintF("%s: %s\n", options.out, summary.description);
  absl::PrintF("  tensors   %d linear layers%s, %d others as they were\n", summary.num_linear,
               kinds, summary.num_other);
  absl::PrintF("  size      %s -> %s\n", BytesText(summary.bytes_in), BytesText(summary.bytes_out));
  absl::PrintF("  time      %.1f s, %.2f GB/s\n", seconds,
               static_cast<double>(summary.bytes_in) / 1e9 / seconds);
  if (summary.relative_squared_error > 0) {
    absl::PrintF("  error     %.5f relative squared, over all quantised weights\n",
                 summary.relative_squared_error);
  }
}

int Run(const Options& options) {
  const absl::Time start = absl::Now();
  absl::StatusOr<QuantSpec> spec = options.quant.Spec();
  absl::StatusOr<QuantizeSummary> summary =
      spec.ok() ? Quantize(options, *spec) : absl::StatusOr<QuantizeSummary>(spec.status());
  if (!summary.ok()) {
    absl::FPrintF(stderr, "intermix quantize: %s\n", std::string(summary.status().message()));
    return 1;
  }
  PrintSummary(options, *summary, absl::ToDoubleSeconds(absl::Now() - start));
  return 0;
}

}  // namespace

void AddQuantizeCommand(CLI::App& app, int* exit_code) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand(
      "quantize", "Quantise a Hugging Face model directory to an Intermix directory");
  command->add_option("--model", options->model, "directory with config.json and safetensors")
      ->required();
  command->add_option("--out", options->out, "directory to create")->required();
  command->add_flag("--force", options->force, "replace a quantised model that is already there");
  AddQuantOptions(*command, options->quant);
  command->callback([options, exit_code] { *exit_code = Run(*options); });
}

}  // namespace intermix
