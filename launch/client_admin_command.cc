// `intermix client abort | drain | resume | shutdown | log-level | flush-prefix-cache`: one call to
// the control service each.
#include <cstdio>
#include <memory>
#include <string>

#include "intermix/v1/control.grpc.pb.h"
#include "launch/client.h"
#include "launch/commands.h"
#include "launch/logging.h"
#include "runtime/rpc/proto_convert.h"

namespace intermix {
namespace {

// One subcommand: its request, filled by its options, and the call that it makes.
template <typename Request, typename Response>
struct AdminCommand {
  using Method = grpc::Status (v1::Control::Stub::*)(grpc::ClientContext*, const Request&,
                                                     Response*);
  ClientOptions client;
  Request request;
  Method method;

  int Run() const {
    if (!SetUpLogging("warning", -1).ok()) return 1;
    ClientOptions options = client;
    if (options.timeout_s <= 0.0) options.timeout_s = 10.0;
    grpc::ClientContext context;
    SetDeadline(options, context);
    Response response;
    const auto stub = v1::Control::NewStub(Connect(options));
    const grpc::Status status = (stub.get()->*method)(&context, request, &response);
    if (!status.ok()) return Complain(options, status);
    std::printf("%s", response.DebugString().c_str());
    return 0;
  }
};

// Registers the subcommand and returns it for options of its own.
template <typename Request, typename Response>
std::pair<CLI::App*, std::shared_ptr<AdminCommand<Request, Response>>> Add(
    CLI::App& client, int* exit_code, const char* name, const char* help,
    grpc::Status (v1::Control::Stub::*method)(grpc::ClientContext*, const Request&, Response*)) {
  CLI::App* command = client.add_subcommand(name, help);
  const auto admin = std::make_shared<AdminCommand<Request, Response>>();
  admin->method = method;
  AddClientOptions(*command, admin->client);
  command->callback([admin, exit_code] { *exit_code = admin->Run(); });
  return {command, admin};
}

}  // namespace

void AddClientAdminCommands(CLI::App& client, int* exit_code) {
  using Stub = v1::Control::Stub;
  const auto [abort, abort_admin] =
      Add(client, exit_code, "abort", "End requests that are under way", &Stub::Abort);
  v1::AbortRequest* which = &abort_admin->request;
  CLI::Option_group* requests = abort->add_option_group("Requests");
  requests->add_option_function<std::string>(
      "--id", [which](const std::string& id) { which->set_request_id(id); },
      "Those that a client named so");
  requests->add_flag_callback(
      "--all", [which] { which->set_all(true); }, "All");
  requests->require_option(1);

  Add(client, exit_code, "drain", "Take no more requests; those under way go on", &Stub::Drain);
  Add(client, exit_code, "resume", "Take requests again", &Stub::Resume);
  Add(client, exit_code, "flush-prefix-cache", "Forget cached prefixes", &Stub::FlushPrefixCache);

  const auto [shutdown, shutdown_admin] =
      Add(client, exit_code, "shutdown", "Stop the server", &Stub::Shutdown);
  v1::ShutdownRequest* stop = &shutdown_admin->request;
  shutdown
      ->add_option_function<double>(
          "--grace",
          [stop](double s) { *stop->mutable_grace() = DurationToProto(absl::Seconds(s)); },
          "Seconds that requests under way may take (default 0)")
      ->check(CLI::Range(0.0, 86400.0));

  const auto [level, level_admin] =
      Add(client, exit_code, "log-level", "Change every rank's log level", &Stub::SetLogLevel);
  v1::SetLogLevelRequest* to = &level_admin->request;
  level
      ->add_option_function<std::string>(
          "level", [to](const std::string& name) { to->set_level(name); },
          "trace, debug, info, warning, error or off")
      ->required();
}

}  // namespace intermix
