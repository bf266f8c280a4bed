#include "tests/testing/served_model.h"

#include <thread>

#include "gtest/gtest.h"

namespace intermix {

std::chrono::system_clock::time_point Soon() {
  return std::chrono::system_clock::now() + std::chrono::minutes(1);
}

std::vector<std::string> Mpirun(int ranks, const std::vector<std::string>& arguments) {
  std::vector<std::string> command = {MpiRun(), "-n", std::to_string(ranks), IntermixBinary()};
  command.insert(command.end(), arguments.begin(), arguments.end());
  return command;
}

Served::Served(std::vector<std::string> more, const std::string& model) {
  const std::string port_file = directory_ / "address";
  std::vector<std::string> arguments = {"serve",       "--model",     model,    "--listen",
                                        "127.0.0.1:0", "--port-file", port_file};
  arguments.insert(arguments.end(), more.begin(), more.end());
  job_ = std::make_unique<BackgroundProcess>(Mpirun(2, arguments));
  address_ = job_->AwaitLine(port_file);
  channel_ = grpc::CreateChannel(address_, grpc::InsecureChannelCredentials());
  inference_ = v1::Inference::NewStub(channel_);
  control_ = v1::Control::NewStub(channel_);
}

v1::GetClusterResponse Served::Cluster() {
  grpc::ClientContext context;
  context.set_deadline(Soon());
  v1::GetClusterResponse response;
  const grpc::Status status = control_->GetCluster(&context, {}, &response);
  EXPECT_TRUE(status.ok()) << status.error_message();
  return response;
}

v1::EngineInfo Served::Engine() {
  grpc::ClientContext context;
  context.set_deadline(Soon());
  v1::GetServerInfoResponse response;
  const grpc::Status status = control_->GetServerInfo(&context, {}, &response);
  EXPECT_TRUE(status.ok()) << status.error_message();
  return response.engine();
}

bool Served::Running(uint32_t sequences) {
  for (int i = 0; i < 6000; ++i) {
    if (Engine().running() == sequences) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return false;
}

std::vector<std::string> Served::ClientCommand(std::vector<std::string> arguments) const {
  arguments.insert(arguments.begin(), {IntermixBinary(), "client"});
  arguments.insert(arguments.end(), {"--server", address_});
  return arguments;
}

ProgramResult Served::Client(const std::vector<std::string>& arguments) const {
  return RunProgram({.arguments = ClientCommand(arguments)});
}

}  // namespace intermix
