// `intermix serve`: a job that answers over gRPC. Rank 0 runs the engine and the server, the others
// step with it; every rank reports to rank 0's control service.
#include <cstdio>
#include <memory>
#include <string>

#include "comm/agreement.h"
#include "launch/commands.h"
#include "launch/heartbeat_monitor.h"
#include "launch/job.h"
#include "launch/logging.h"
#include "launch/metrics_server.h"
#include "launch/port_file.h"
#include "launch/rank_reporter.h"
#include "launch/rendezvous.h"
#include "launch/start_server.h"
#include "launch/status_page.h"
#include "runtime/rpc/control_client.h"
#include "runtime/rpc/proto_convert.h"
#include "runtime/rpc/server.h"
#include "spdlog/spdlog.h"

namespace intermix {
namespace {

struct ServeOptions {
  JobOptions job;
  std::string listen = "127.0.0.1";
  std::string port_file;
  std::string metrics;  // address; empty: none
  double heartbeat_timeout_s = 30.0;
};

v1::ModelInfo Describe(Job& job) {
  v1::ModelInfo model;
  model.set_name(job.model_name());
  model.set_description(job.rank().model_description());
  model.set_vocab_size(job.rank().runner().vocab_size());
  model.set_max_context(job.rank().runner().max_context());
  *model.mutable_layout() = LayoutToProto(job.rank().layout());
  return model;
}

// Rank 0, from loaded to stopped.
int Serve(const ServeOptions& options, Job& job, RpcServer& server, RankReporter& reporter) {
  const FrontModel front = job.front();
  Engine engine(options.job.engine, job.rank().runner());
  const v1::ModelInfo model = Describe(job);
  server.Open(engine, options.job.engine, front, model);
  const auto metrics = MetricsServer::Start(options.metrics, engine, server.cluster());
  absl::Status ready = metrics.status();
  if (ready.ok()) ready = WritePortFile(options.port_file, server.address());
  if (!ready.ok()) engine.Shutdown();  // then Run only tells the others to stop
  auto monitor = std::make_unique<HeartbeatMonitor>(server.cluster(),
                                                    absl::Seconds(options.heartbeat_timeout_s));
  if (ready.ok()) {
    std::printf("intermix: serving %s on %s (%s; %s)\n", model.name().c_str(),
                server.address().ToString().c_str(), LayoutText(model.layout()).c_str(),
                model.description().c_str());
    std::fflush(stdout);
  }
  job.signals().SetAction([&] {
    spdlog::info("shutting down");
    reporter.SetStopping();
    server.Drain();
    engine.Shutdown();
  });
  engine.Run();
  job.signals().SetAction([] {});
  monitor.reset();  // the ranks fall silent now
  server.Shutdown(absl::Seconds(2));
  return ready.ok() ? 0 : job.Refuse(ready);
}

int RunServe(const ServeOptions& options) {
  Job job;
  if (absl::Status s = job.Join(options.job); !s.ok()) return job.Refuse(s);
  absl::Status started;
  std::unique_ptr<RpcServer> server;  // rank 0's
  if (job.first()) {
    absl::StatusOr<std::unique_ptr<RpcServer>> made = StartServer(options.listen, job);
    started = made.status();
    if (made.ok()) server = *std::move(made);
  }
  if (absl::Status s = AgreeOnStatus(job.world(), started); !s.ok()) return job.Refuse(s);

  RankReporter reporter(job.index());
  ControlClientOptions control_options =
      ShareControlAddress(job.world(), job.one_host(), server.get());
  control_options.on_log_level = ChangeLogLevel;
  ControlClient control(control_options, reporter.Info(), [&] { return reporter.Status(); });
  if (absl::Status s = job.Load(options.job); !s.ok()) return job.Refuse(s);
  reporter.SetLoaded(job.rank());
  control.SetInfo(reporter.Info());

  if (job.first()) return Serve(options, job, *server, reporter);
  job.signals().SetAction([&control] { control.RequestStop(); });
  job.rank().RunWorker();
  job.signals().SetAction([] {});
  return 0;
}

}  // namespace

void AddServeCommand(CLI::App& app, int* exit_code) {
  CLI::App* command =
      app.add_subcommand("serve", "Serve a model over gRPC; ranks come from mpirun");
  const auto options = std::make_shared<ServeOptions>();
  AddJobOptions(*command, options->job);
  EngineOptions& engine = options->job.engine;
  command->add_option("--max-running", engine.max_running, "Sequences stepped together at most")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command->add_option("--max-queue", engine.max_queue, "Requests that may wait")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command
      ->add_option("--max-unread", engine.max_unread,
                   "Tokens that a client may leave unread before its stream ends")
      ->check(CLI::PositiveNumber)
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
      ->add_option("--heartbeat-timeout", options->heartbeat_timeout_s,
                   "Seconds of a rank's silence that end the job (0: never)")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command->callback([options, exit_code] { *exit_code = RunServe(*options); });
}

}  // namespace intermix
