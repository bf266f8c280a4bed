// `intermix client status` (and `intermix status`): what a server is doing, and its ranks as a
// table.
#include <unistd.h>

#include <cstdio>
#include <memory>
#include <string>

#include "absl/time/time.h"
#include "intermix/v1/control.grpc.pb.h"
#include "launch/client.h"
#include "launch/commands.h"
#include "launch/logging.h"
#include "launch/signal_watcher.h"
#include "launch/status_page.h"
#include "runtime/rpc/proto_convert.h"

namespace intermix {
namespace {

struct StatusOptions {
  ClientOptions client;
  bool json = false;
  bool watch = false;
  double interval_s = 1.0;
};

// Shows the page again with every message, until Ctrl-C.
int Watch(const StatusOptions& options, v1::Control::Stub& stub,
          const v1::GetServerInfoResponse& server) {
  SignalWatcher signals;
  signals.Start(absl::Seconds(5));
  grpc::ClientContext context;
  SetDeadline(options.client, context);
  signals.SetAction([&context] { context.TryCancel(); });
  v1::WatchStatsRequest request;
  *request.mutable_interval() = DurationToProto(absl::Seconds(options.interval_s));
  const auto reader = stub.WatchStats(&context, request);
  const char* clear = isatty(STDOUT_FILENO) != 0 ? "\x1b[H\x1b[J" : "";
  v1::Stats stats;
  while (reader->Read(&stats)) {
    std::printf("%s%s", clear, WatchPage(server, stats).c_str());
    std::fflush(stdout);
  }
  const grpc::Status status = reader->Finish();
  signals.SetAction([] {});
  return signals.signal() != 0 ? 0 : Complain(options.client, status);
}

int RunStatus(const StatusOptions& options) {
  if (!SetUpLogging("warning", -1).ok()) return 1;
  ClientOptions client = options.client;
  if (client.timeout_s <= 0.0) client.timeout_s = 10.0;
  const auto stub = v1::Control::NewStub(Connect(client));
  v1::GetServerInfoResponse server;
  v1::GetClusterResponse cluster;
  grpc::ClientContext server_context;
  SetDeadline(client, server_context);
  grpc::Status status = stub->GetServerInfo(&server_context, v1::GetServerInfoRequest(), &server);
  if (status.ok() && options.watch) return Watch(options, *stub, server);
  if (status.ok()) {
    grpc::ClientContext cluster_context;
    SetDeadline(client, cluster_context);
    status = stub->GetCluster(&cluster_context, v1::GetClusterRequest(), &cluster);
  }
  if (!status.ok()) return Complain(client, status);
  const std::string page = options.json ? StatusJson(server, cluster) : StatusPage(server, cluster);
  std::fwrite(page.data(), 1, page.size(), stdout);
  return 0;
}

}  // namespace

void AddClientStatusCommand(CLI::App& app, int* exit_code) {
  CLI::App* command = app.add_subcommand("status", "What a server is doing, and its ranks");
  const auto options = std::make_shared<StatusOptions>();
  AddClientOptions(*command, options->client);
  CLI::Option* json = command->add_flag("--json", options->json, "Print JSON");
  CLI::Option* watch =
      command->add_flag("--watch", options->watch, "Show it again and again, until Ctrl-C");
  watch->excludes(json);
  command->add_option("--interval", options->interval_s, "Seconds between pages of --watch")
      ->check(CLI::Range(0.1, 3600.0))
      ->needs(watch)
      ->capture_default_str();
  command->callback([options, exit_code] { *exit_code = RunStatus(*options); });
}

}  // namespace intermix
