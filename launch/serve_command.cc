// `intermix serve`: its options.
#include <memory>

#include "launch/commands.h"
#include "launch/number_checks.h"
#include "launch/serve.h"

namespace intermix {

void AddServeCommand(CLI::App& app, int* exit_code) {
  CLI::App* command =
      app.add_subcommand("serve", "Serve a model over gRPC; ranks come from mpirun");
  const auto options = std::make_shared<ServeOptions>();
  AddJobOptions(*command, options->job);
  EngineOptions& engine = options->job.engine;
  command->add_option("--max-running", engine.max_running, "Sequences stepped together at most")
      ->check(kPositive)
      ->capture_default_str();
  command->add_option("--max-queue", engine.max_queue, "Requests that may wait")
      ->check(kPositive)
      ->capture_default_str();
  command
      ->add_option("--max-unread", engine.max_unread,
                   "Tokens that a client may leave unread before its stream ends")
      ->check(kPositive)
      ->capture_default_str();
  command->add_flag_callback(
      "--no-prefix-cache", [&engine] { engine.prefix_caching = false; },
      "Compute every prompt anew, also where its beginning is still in the KV cache");
  command
      ->add_option_function<double>(
          "--priority-ageing",
          [&engine](double seconds) { engine.priority_ageing = absl::Seconds(seconds); },
          "Seconds of waiting that make up for one level of priority (default 10)")
      ->check(CLI::Range(0.001, 86400.0));
  command
      ->add_option("--listen", options->listen,
                   "HOST[:PORT]; port 50051, or a free one where that is taken; 0: any free one")
      ->capture_default_str();
  command->add_option("--port-file", options->port_file,
                      "Write HOST:PORT to this file once requests are welcome");
  command->add_option("--metrics", options->metrics,
                      "Answer GET /metrics for Prometheus on this PORT or HOST:PORT");
  command
      ->add_option("--stall-timeout", options->stall_timeout_s,
                   "Seconds after which a silent rank ends the job, and a step that does not end "
                   "makes health NOT_SERVING (0: never)")
      ->check(kNonNegative)
      ->capture_default_str();
  command->add_flag("!--no-log-requests", options->log_requests,
                    "Do not log a line for each request when it is over");
  command->callback([options, exit_code] { *exit_code = RunServe(*options); });
}

}  // namespace intermix
