// Serve: a job that answers over gRPC. Rank 0 runs the engine and the server, the others step with
// it; every rank reports to rank 0's control service.
#pragma once

#include <string>

#include "launch/job.h"

namespace intermix {

struct ServeOptions {
  JobOptions job;
  std::string listen = "127.0.0.1";
  std::string port_file;
  std::string metrics;  // address; empty: none
  double stall_timeout_s = 30.0;
  bool log_requests = true;
};

// Collective over the ranks that mpirun started: from joining them to the orderly end. The exit
// code.
int RunServe(const ServeOptions& options);

}  // namespace intermix
