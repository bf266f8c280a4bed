#include "tests/testing/served_model.h"

#include <filesystem>
#include <fstream>
#include <iterator>
#include <thread>

#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace intermix {
namespace {

constexpr int kContext = 131072;  // the cache holds one such sequence, and some

// The model with a longer context than it was trained for, in `directory`, which it returns.
std::string Stretch(const std::string& model, const std::string& directory) {
  std::filesystem::create_directories(directory);
  for (const std::string& name : ListNames(model)) {
    if (name != "config.json") {
      std::filesystem::create_symlink(std::filesystem::absolute(model + "/" + name),
                                      directory + "/" + name);
    }
  }
  std::filesystem::copy(model + "/config.json", directory);
  EditConfig(directory, [](nlohmann::json& c) { c["max_position_embeddings"] = kContext; });
  return directory;
}

}  // namespace

std::chrono::system_clock::time_point Soon() {
  return std::chrono::system_clock::now() + std::chrono::minutes(4);
}

std::vector<std::string> Mpirun(int ranks, const std::vector<std::string>& arguments) {
  std::vector<std::string> command = {MpiRun(), "-n", std::to_string(ranks), IntermixBinary()};
  command.insert(command.end(), arguments.begin(), arguments.end());
  return command;
}

Served::Served(std::vector<std::string> more, const std::string& model)
    : Served(more, model, /*endless=*/false) {}

Served Served::Endless(std::vector<std::string> more, const std::string& model) {
  return Served(more, model, /*endless=*/true);
}

Served::Served(const std::vector<std::string>& more, const std::string& model, bool endless) {
  const std::string path = endless ? Stretch(model, directory_ / "stretched") : model;
  std::vector<std::string> arguments = {"serve",       "--model",     path,      "--listen",
                                        "127.0.0.1:0", "--port-file", port_file_};
  if (endless) {
    arguments.insert(arguments.end(), {"--kv-memory", "160MiB", "--max-unread", "1000000"});
  }
  arguments.insert(arguments.end(), more.begin(), more.end());
  job_ = std::make_unique<BackgroundProcess>(Mpirun(2, arguments));
  address_ = job_->AwaitLine(port_file_);
  channel_ = grpc::CreateChannel(address_, grpc::InsecureChannelCredentials());
  inference_ = v1::Inference::NewStub(channel_);
  control_ = v1::Control::NewStub(channel_);
  const auto complete = [this] {
    return address_.empty() || Cluster().ranks_size() == 2 || ::testing::Test::HasFailure();
  };
  for (int i = 0; i < 24000 && !complete(); ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
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
  for (int i = 0; i < 24000; ++i) {
    if (Engine().running() == sequences) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return false;
}

// The command lines of mpirun and of its ranks name the port file. That of a zombie is empty.
bool Served::AnyProcess() const {
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator("/proc", error)) {
    std::ifstream file(entry.path() / "cmdline");
    const std::string line(std::istreambuf_iterator<char>(file), {});
    if (line.find(port_file_) != std::string::npos) return true;
  }
  return false;
}

bool Served::Gone() const {
  for (int i = 0; i < 24000; ++i) {
    if (!AnyProcess()) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return false;
}

std::vector<std::string> Served::ClientCommand(std::vector<std::string> arguments) const {
  arguments.insert(arguments.begin(), {IntermixBinary(), "client"});
  // Some would give up after five seconds of their own accord.
  arguments.insert(arguments.end(), {"--server", address_, "--timeout", "200"});
  return arguments;
}

ProgramResult Served::Client(const std::vector<std::string>& arguments) const {
  return RunProgram({.arguments = ClientCommand(arguments)});
}

}  // namespace intermix
