#include "launch/start_server.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "spdlog/spdlog.h"

namespace intermix {

absl::StatusOr<std::unique_ptr<RpcServer>> StartServer(const std::string& address, Job& job,
                                                       RequestObserver on_request_end) {
  const absl::StatusOr<ListenAddress> listen = ListenAddress::Parse(address);
  if (!listen.ok()) {
    return absl::InvalidArgumentError(absl::StrCat("--listen: ", listen.status().message()));
  }
  absl::StatusOr<std::unique_ptr<RpcServer>> server =
      RpcServer::Start({.listen = *listen,
                        .version = INTERMIX_VERSION,
                        .world = job.size(),
                        .on_stop_requested = [&job] { job.signals().Trigger(); },
                        .on_request_end = std::move(on_request_end)});
  if (!server.ok()) return server.status();
  if (!listen->port_given && (*server)->address().port != listen->port) {
    spdlog::warn("port {} is taken; listening on {}", listen->port, (*server)->address().port);
  }
  if (!listen->loopback()) {
    spdlog::warn(
        "{} is open to the network and there is no authentication: whoever reaches it can "
        "use it",
        (*server)->address().ToString());
  } else if (!job.one_host()) {
    spdlog::warn(
        "ranks on other hosts cannot report to {}; use --listen with a name they can reach",
        (*server)->address().ToString());
  }
  return server;
}

}  // namespace intermix
