#include "launch/serve.h"

#include <cstdio>
#include <memory>
#include <optional>
#include <utility>

#include "kernels/core/check.h"
#include "launch/job_monitor.h"
#include "launch/logging.h"
#include "launch/metrics_server.h"
#include "launch/port_file.h"
#include "launch/rank_reporter.h"
#include "launch/rendezvous.h"
#include "launch/request_log.h"
#include "launch/start_server.h"
#include "launch/status_page.h"
#include "runtime/rpc/control_client.h"
#include "runtime/rpc/proto_convert.h"
#include "runtime/rpc/server.h"
#include "spdlog/spdlog.h"

namespace intermix {
namespace {

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
int Serve(const ServeOptions& options, Job& job, RpcServer& server, RankReporter& reporter,
          std::unique_ptr<ControlClient> control) {
  const FrontModel front = job.front();
  EngineOptions engine_options = options.job.engine;
  engine_options.num_threads = job.num_threads();
  Engine engine(engine_options, job.rank().runner());
  const v1::ModelInfo model = Describe(job);
  server.Open(engine, engine_options, front, model);
  const auto metrics = MetricsServer::Start(options.metrics, engine, server.cluster());
  absl::Status ready = metrics.status();
  if (ready.ok()) ready = WritePortFile(options.port_file, server.address());
  if (!ready.ok()) engine.Shutdown();  // then Run only tells the others to stop
  std::optional<JobMonitor> monitor;
  monitor.emplace(server, engine,
                  JobMonitor::Options{.stall_timeout = absl::Seconds(options.stall_timeout_s)});
  if (ready.ok()) {
    std::printf("intermix: serving %s on %s (%s; %s)\n", model.name().c_str(),
                server.address().ToString().c_str(), LayoutText(model.layout()).c_str(),
                model.description().c_str());
    std::fflush(stdout);
  }
  job.signals().SetAction([&] {
    monitor->EndIfARankIsGone();
    spdlog::info("shutting down");
    reporter.SetStopping();
    server.Drain();
    engine.Shutdown();
  });
  engine.Run();
  job.signals().SetAction([] {});
  monitor.reset();  // the ranks fall silent now
  control.reset();
  server.Shutdown(absl::Seconds(5));
  return ready.ok() ? 0 : job.Refuse(ready);
}

}  // namespace

int RunServe(const ServeOptions& options) {
  Job job;
  if (absl::Status s = job.Join(options.job); !s.ok()) return job.Refuse(s);
  absl::Status started;
  std::unique_ptr<RequestLog> requests;
  std::unique_ptr<RpcServer> server;  // rank 0's
  if (job.first()) {
    RequestObserver log_request;
    if (options.log_requests) {
      requests = std::make_unique<RequestLog>(options.job.log_format == "json", job.log_rank());
      log_request = [&requests](const RequestRecord& record) { requests->Write(record); };
    }
    absl::StatusOr<std::unique_ptr<RpcServer>> made = StartServer(options.listen, job, log_request);
    started = made.status();
    if (made.ok()) server = *std::move(made);
  }
  if (absl::Status s = job.Check(options.job, started); !s.ok()) return job.Refuse(s);

  RankReporter reporter(job.index());
  ControlClientOptions control_options =
      ShareControlAddress(job.world(), job.one_host(), server.get());
  control_options.on_log_level = ChangeLogLevel;
  if (!job.first() && options.stall_timeout_s > 0) {
    control_options.silence_limit = absl::Seconds(options.stall_timeout_s);
    control_options.on_silence = [] { Fatal("rank 0 has not answered for --stall-timeout"); };
  }
  auto control = std::make_unique<ControlClient>(control_options, reporter.Info(),
                                                 [&] { return reporter.Status(); });
  if (absl::Status s = job.Load(); !s.ok()) return job.Refuse(s);
  reporter.SetLoaded(job.rank());
  control->SetInfo(reporter.Info());

  if (job.first()) return Serve(options, job, *server, reporter, std::move(control));
  job.signals().SetAction([&control] { control->RequestStop(); });
  job.rank().RunWorker();
  job.signals().SetAction([] {});
  return 0;
}

}  // namespace intermix
