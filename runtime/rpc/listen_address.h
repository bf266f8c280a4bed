// ListenAddress: where a server listens, as `--listen` gives it. A plain value.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace intermix {

struct ListenAddress {
  static constexpr int kDefaultPort = 50051;

  std::string host = "127.0.0.1";  // a name, an IPv4 or an IPv6 address (without brackets)
  int port = kDefaultPort;         // 0: any free one
  bool port_given = false;         // or the default, for which another may stand in

  // "HOST:PORT", "HOST", ":PORT", "[IPV6]:PORT".  INVALID_ARGUMENT with what is wrong with it.
  static absl::StatusOr<ListenAddress> Parse(const std::string& text);

  bool loopback() const;         // only this machine can reach it
  std::string ToString() const;  // "127.0.0.1:50051", "[::1]:50051"
};

// Whether a server could listen there now.
//   INVALID_ARGUMENT: the host is unknown or not one of this machine's.  ALREADY_EXISTS: something
//   listens there.  PERMISSION_DENIED.
absl::Status TryListen(const ListenAddress& address);

}  // namespace intermix
