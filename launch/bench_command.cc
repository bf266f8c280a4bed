// `intermix bench peak | kernels | model | engine | checkpoint`: how fast this device is, and how
// far from its limits.
#include <unistd.h>

#include <cstdio>
#include <memory>
#include <string>

#include "launch/bench.h"
#include "launch/commands.h"
#include "launch/job.h"
#include "launch/number_checks.h"
#include "launch/quant_options.h"

namespace intermix {
namespace {

using Measure = BenchTables(const BenchOptions& options);

int Run(const BenchOptions& options, Measure* measure) {
  const absl::StatusOr<TableFormat> format = ParseTableFormat(options.format);
  const BenchTables tables = format.ok() ? measure(options) : BenchTables(format.status());
  if (isatty(STDERR_FILENO) == 1) std::fputs("\r\033[K", stderr);
  if (!tables.ok()) {
    std::fprintf(stderr, "intermix bench: %s\n", std::string(tables.status().message()).c_str());
    return 1;
  }
  if (!tables->empty()) std::fputs(Format(*tables, *format).c_str(), stdout);  // of rank 0
  return 0;
}

CLI::App* AddMeasure(CLI::App& bench, const std::string& name, const std::string& what,
                     Measure* measure, const std::shared_ptr<BenchOptions>& options,
                     int* exit_code) {
  CLI::App* command = bench.add_subcommand(name, what);
  command->add_option("--device", options->rank.device, "cpu, cuda or reference")
      ->capture_default_str();
  command->add_option("--threads", options->rank.num_threads, "0: as many as CPUs")
      ->check(kNonNegative);
  command->add_flag("--pin-threads", options->rank.pin_threads,
                    "Bind the threads that help to a CPU each");
  command->add_option("-o,--output", options->format, "json, csv or md")->capture_default_str();
  command->add_option("--turns", options->turns, "Measurements of each; the median counts")
      ->check(kPositive)
      ->capture_default_str();
  command->callback([=] { *exit_code = Run(*options, measure); });
  return command;
}

void AddClock(CLI::App& command, BenchOptions& options) {
  command
      .add_option("--clock", options.clock,
                  "wall, or cpu: time of all threads, for machines that others use")
      ->check(CLI::IsMember({"wall", "cpu"}))
      ->capture_default_str();
}

}  // namespace

void AddBenchCommand(CLI::App& app, int* exit_code) {
  CLI::App* bench = app.add_subcommand("bench", "Measure a device, its kernels, whole models");
  bench->require_subcommand(1);
  const auto options = std::make_shared<BenchOptions>();
  const std::string config = "mixtral-8x7b, llama-3-8b, or a directory with a config.json";
  AddMeasure(*bench, "peak", "The device's limits", &BenchPeakCommand, options, exit_code);
  CLI::App* kernels = AddMeasure(*bench, "kernels", "Every op over a list of shapes",
                                 &BenchKernelsCommand, options, exit_code);
  kernels->add_option("--config", options->config, config)->capture_default_str();
  kernels->add_option("--tokens", options->tokens, "Rows, e.g. 1,64,512")
      ->delimiter(',')
      ->check(kPositive);
  kernels->add_option("--contexts", options->contexts, "Of attention")
      ->delimiter(',')
      ->check(kPositive);
  kernels->add_option("--filter", options->filter, "Only ops whose name and shape contain this");
  CLI::App* model =
      AddMeasure(*bench, "model", "Whole steps, with random weights; also under mpirun",
                 &BenchModelCommand, options, exit_code);
  model->add_option("--config", options->config, config)->capture_default_str();
  model->add_option("--layers", options->layers, "0: all")->check(kNonNegative);
  model->add_option("-p,--prompt", options->prompt, "Tokens of the prompt; 0: none")
      ->check(kNonNegative)
      ->capture_default_str();
  model->add_option("-n,--generate", options->generate, "Tokens of each sequence")
      ->check(kPositive)
      ->capture_default_str();
  model->add_option("-b,--batch", options->batches, "Sequences that generate together, e.g. 1,8")
      ->delimiter(',')
      ->check(kPositive);
  model->add_option("--context", options->context, "Tokens before those that are generated")
      ->check(kNonNegative)
      ->capture_default_str();
  CLI::App* engine =
      AddMeasure(*bench, "engine", "What a step takes outside the kernels; also under mpirun",
                 &BenchEngineCommand, options, exit_code);
  engine->add_option("--model", options->rank.model_directory, "Quantised, or Hugging Face")
      ->required();
  engine->add_option("-n,--generate", options->generate, "Tokens of each sequence")
      ->check(kPositive);
  engine->add_option("-b,--batch", options->batches, "Sequences that generate together")
      ->delimiter(',')
      ->check(kPositive);
  CLI::App* checkpoint =
      AddMeasure(*bench, "checkpoint", "Quantising and loading model files, with random weights",
                 &BenchCheckpointCommand, options, exit_code);
  checkpoint->add_option("--config", options->config, config)->capture_default_str();
  checkpoint->add_option("--layers", options->layers, "0: all")->check(kNonNegative);
  checkpoint->add_option("--scratch", options->scratch, "Where the files are made, and removed")
      ->check(CLI::ExistingDirectory);
  for (CLI::App* command : {model, engine}) AddLayoutOptions(*command, options->rank);
  for (CLI::App* command : {model, engine, checkpoint}) AddQuantOptions(*command, options->quant);
  for (CLI::App* command : {kernels, model, engine})
    AddKvDTypeOption(*command, options->rank.kv_dtype);
  AddClock(*kernels, *options);
  AddClock(*model, *options);
}

}  // namespace intermix
