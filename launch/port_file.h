// The file that tells scripts where a server listens.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "runtime/rpc/listen_address.h"

namespace intermix {

// Writes "HOST:PORT\n" so that a reader sees the whole line or no file. Does nothing where `path`
// is empty.
//   INVALID_ARGUMENT naming the file and the reason.
absl::Status WritePortFile(const std::string& path, const ListenAddress& address);

}  // namespace intermix
