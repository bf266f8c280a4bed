// Starting rank 0's server where `--listen` says, with the warnings that the place deserves.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "launch/job.h"
#include "runtime/rpc/server.h"

namespace intermix {

// `job` outlives the server, and is stopped as by a signal when another rank asks for it.
// `on_request_end` may be empty; see RpcServerOptions.
//   INVALID_ARGUMENT, ALREADY_EXISTS, PERMISSION_DENIED: see ListenAddress::Parse and TryListen.
absl::StatusOr<std::unique_ptr<RpcServer>> StartServer(const std::string& address, Job& job,
                                                       RequestObserver on_request_end);

}  // namespace intermix
