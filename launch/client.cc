#include "launch/client.h"

#include <chrono>
#include <cstdio>
#include <sstream>

#include "absl/status/status.h"
#include "launch/number_checks.h"

namespace intermix {

void AddClientOptions(CLI::App& command, ClientOptions& options) {
  command.add_option("--server", options.server, "HOST:PORT of rank 0")
      ->envname("INTERMIX_SERVER")
      ->capture_default_str();
  command.add_option("--timeout", options.timeout_s, "Seconds the answer may take (0: any)")
      ->check(kNonNegative);
}

std::shared_ptr<grpc::Channel> Connect(const ClientOptions& options) {
  grpc::ChannelArguments arguments;
  for (const char* here : {"127.", "localhost:", "[::1]:"}) {  // no proxy could reach these
    if (options.server.starts_with(here)) arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  }
  return grpc::CreateCustomChannel(options.server, grpc::InsecureChannelCredentials(), arguments);
}

void SetDeadline(const ClientOptions& options, grpc::ClientContext& context) {
  if (options.timeout_s <= 0.0) return;
  context.set_deadline(std::chrono::system_clock::now() +
                       std::chrono::microseconds(static_cast<int64_t>(options.timeout_s * 1e6)));
}

int Complain(const ClientOptions& options, const grpc::Status& status) {
  std::ostringstream message;
  message << static_cast<absl::StatusCode>(status.error_code()) << ": " << status.error_message();
  if (status.error_code() == grpc::StatusCode::UNAVAILABLE) {
    message << " (asked " << options.server << "; is `intermix serve` running there?)";
  }
  std::fprintf(stderr, "intermix: %s\n", message.str().c_str());
  return 1;
}

}  // namespace intermix
