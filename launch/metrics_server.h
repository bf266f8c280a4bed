// MetricsServer: answers GET /metrics for Prometheus, from its own threads; the engine is not kept
// waiting.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "runtime/engine/engine.h"
#include "runtime/rpc/cluster_table.h"

namespace intermix {

class MetricsServer {
 public:
  // `address` is HOST:PORT, or PORT of this machine alone; port 0 is any free one. Empty: null.
  // `engine` and `cluster` outlive the server.
  //   INVALID_ARGUMENT: not an address, or nothing can listen there.
  static absl::StatusOr<std::unique_ptr<MetricsServer>> Start(const std::string& address,
                                                              const Engine& engine,
                                                              const ClusterTable& cluster);
  ~MetricsServer();

  int port() const;

 private:
  class Impl;
  explicit MetricsServer(std::shared_ptr<Impl> impl);

  std::shared_ptr<Impl> impl_;  // the library holds it weakly
};

}  // namespace intermix
