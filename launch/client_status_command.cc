// `intermix client status` (and `intermix status`): what a server is doing, and its ranks as a
// table.
#include <cstdio>
#include <memory>
#include <string>

#include "absl/time/time.h"
#include "intermix/v1/control.grpc.pb.h"
#include "launch/client.h"
#include "launch/commands.h"
#include "launch/logging.h"
#include "launch/status_page.h"

namespace intermix {
namespace {

struct StatusOptions {
  ClientOptions client;
  bool json = false;
};

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
  command->add_flag("--json", options->json, "Print JSON");
  command->callback([options, exit_code] { *exit_code = RunStatus(*options); });
}

}  // namespace intermix
