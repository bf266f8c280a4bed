// `intermix client health`: asks grpc.health.v1; exit code 0 only where the server is SERVING.
#include <chrono>
#include <cstdio>
#include <memory>
#include <thread>

#include "grpc/health/v1/health.grpc.pb.h"
#include "launch/client.h"
#include "launch/commands.h"
#include "launch/logging.h"
#include "launch/number_checks.h"

namespace intermix {
namespace {

namespace health = grpc::health::v1;

struct HealthOptions {
  ClientOptions client;
  double wait_s = 0.0;
};

struct HealthAnswer {
  grpc::Status status;
  health::HealthCheckResponse response;
  bool serving() const {
    return status.ok() && response.status() == health::HealthCheckResponse::SERVING;
  }
};

HealthAnswer Check(const HealthOptions& options) {
  ClientOptions client = options.client;
  if (client.timeout_s <= 0.0) client.timeout_s = 5.0;
  const auto stub = health::Health::NewStub(Connect(client));
  grpc::ClientContext context;
  SetDeadline(client, context);
  HealthAnswer answer;
  answer.status = stub->Check(&context, health::HealthCheckRequest(), &answer.response);
  return answer;
}

int RunHealth(const HealthOptions& options) {
  using Clock = std::chrono::steady_clock;
  if (!SetUpLogging("warning", -1).ok()) return 1;
  const Clock::time_point end =
      Clock::now() + std::chrono::milliseconds(static_cast<int64_t>(options.wait_s * 1000));
  HealthAnswer answer = Check(options);
  while (!answer.serving() && Clock::now() < end) {
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    answer = Check(options);
  }
  if (!answer.status.ok()) return Complain(options.client, answer.status);
  std::printf("%s\n",
              health::HealthCheckResponse::ServingStatus_Name(answer.response.status()).c_str());
  return answer.serving() ? 0 : 1;
}

}  // namespace

void AddClientHealthCommand(CLI::App& app, int* exit_code) {
  CLI::App* command = app.add_subcommand("health", "Exit code 0 only where the server is SERVING");
  const auto options = std::make_shared<HealthOptions>();
  AddClientOptions(*command, options->client);
  command->add_option("--wait", options->wait_s, "Seconds to wait until it is")
      ->check(kNonNegative);
  command->callback([options, exit_code] { *exit_code = RunHealth(*options); });
}

}  // namespace intermix
