// `client generate --file`: many requests at once, one answer line for each.
#pragma once

#include <string>

#include "launch/client.h"
#include "launch/request_options.h"

namespace intermix {

struct BatchOptions {
  ClientOptions client;  // its timeout holds for each request
  std::string file;    // of lines as ParseBatchLine takes them; - is stdin; blank ones are skipped
  std::string output;  // file; empty: stdout
  int concurrency = 16;
};

// The exit code: 1 where a line failed, 130 or 143 where a signal ended it. A request that fails is
// a line that says so; a server that is gone ends the run. What an ended run has is kept in
// OUTPUT.partial. Call before any thread is started.
int RunBatch(const BatchOptions& options, const RequestOptions& defaults);

}  // namespace intermix
