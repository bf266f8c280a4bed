// Served: `mpirun -n 2 intermix serve` on a free port, for tests to talk to; gone with the object.
// One thread.
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "grpcpp/grpcpp.h"
#include "intermix/v1/control.grpc.pb.h"
#include "intermix/v1/inference.grpc.pb.h"
#include "tests/testing/background_process.h"
#include "tests/testing/model_files.h"
#include "tests/testing/run_program.h"
#include "tests/testing/test_paths.h"

namespace intermix {

// A deadline for what a test waits for: four minutes from now.
std::chrono::system_clock::time_point Soon();

// Tokens of an answer that is under way until somebody ends it: it would take longer than a test
// waits for anything. For a Served::Endless.
constexpr uint32_t kEndless = 131'000;

// The command line of `intermix ARGUMENTS` under mpirun.
std::vector<std::string> Mpirun(int ranks, const std::vector<std::string>& arguments);

class Served {
 public:
  // Serves `model`, with `more` options, from two ranks; returns once it answers and knows both.
  explicit Served(std::vector<std::string> more = {},
                  const std::string& model = TestData() + "/tiny-mixtral");
  // The same with room for answers of kEndless tokens, and for clients that do not read them.
  static Served Endless(std::vector<std::string> more = {},
                        const std::string& model = TestData() + "/tiny-mixtral");

  BackgroundProcess& job() { return *job_; }
  const std::string& address() const { return address_; }
  v1::Inference::Stub& inference() { return *inference_; }

  v1::GetClusterResponse Cluster();
  v1::EngineInfo Engine();
  // Waits, four minutes at most, until so many sequences are stepped.
  bool Running(uint32_t sequences);
  // Waits, four minutes at most, until no process of the job is left.
  bool Gone() const;
  // The command line of `intermix client ARGUMENTS` for it, and what that does.
  std::vector<std::string> ClientCommand(std::vector<std::string> arguments) const;
  ProgramResult Client(const std::vector<std::string>& arguments) const;

 private:
  Served(const std::vector<std::string>& more, const std::string& model, bool endless);

  bool AnyProcess() const;  // of the job

  TempDirectory directory_;
  const std::string port_file_ = directory_ / "address";
  std::unique_ptr<BackgroundProcess> job_;
  std::string address_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::Inference::Stub> inference_;
  std::unique_ptr<v1::Control::Stub> control_;
};

}  // namespace intermix
