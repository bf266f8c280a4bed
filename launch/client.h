// What the commands that talk to a server have in common.
#pragma once

#include <memory>
#include <string>

#include "CLI/CLI.hpp"
#include "grpcpp/grpcpp.h"

namespace intermix {

struct ClientOptions {
  std::string server = "127.0.0.1:50051";
  double timeout_s = 0.0;  // 0: none
};

// --server (or INTERMIX_SERVER) and --timeout; `options` outlives the parse.
void AddClientOptions(CLI::App& command, ClientOptions& options);

std::shared_ptr<grpc::Channel> Connect(const ClientOptions& options);

// Sets the deadline that --timeout asks for.
void SetDeadline(const ClientOptions& options, grpc::ClientContext& context);

// Says on stderr, in one sentence, how a call failed; returns the exit code.
int Complain(const ClientOptions& options, const grpc::Status& status);

}  // namespace intermix
