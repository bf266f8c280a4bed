#include "launch/metrics_server.h"

#include <exception>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "launch/metrics.h"
#include "prometheus/collectable.h"
#include "prometheus/exposer.h"
#include "runtime/rpc/listen_address.h"
#include "spdlog/spdlog.h"

namespace intermix {

class MetricsServer::Impl : public prometheus::Collectable {
 public:
  Impl(const Engine& engine, const ClusterTable& cluster) : engine_(engine), cluster_(cluster) {}

  std::vector<prometheus::MetricFamily> Collect() const override {
    return CollectMetrics(engine_.Snapshot(), engine_.times(), cluster_.Snapshot());
  }

  std::unique_ptr<prometheus::Exposer> exposer;

 private:
  const Engine& engine_;
  const ClusterTable& cluster_;
};

MetricsServer::MetricsServer(std::shared_ptr<Impl> impl) : impl_(std::move(impl)) {}

MetricsServer::~MetricsServer() { impl_->exposer = nullptr; }  // before what it collects from

absl::StatusOr<std::unique_ptr<MetricsServer>> MetricsServer::Start(const std::string& address,
                                                                    const Engine& engine,
                                                                    const ClusterTable& cluster) {
  if (address.empty()) return nullptr;
  const bool port_only = address.find(':') == std::string::npos;
  const absl::StatusOr<ListenAddress> at =
      ListenAddress::Parse(port_only ? absl::StrCat("127.0.0.1:", address) : address);
  if (!at.ok()) {
    return absl::Status(at.status().code(),
                        absl::StrCat("--metrics: ", std::string(at.status().message())));
  }
  if (!at->loopback()) {
    spdlog::warn("metrics on {} are open to the network, without authentication", at->ToString());
  }
  auto impl = std::make_shared<Impl>(engine, cluster);
  try {
    impl->exposer = std::make_unique<prometheus::Exposer>(at->ToString(), 2);
  } catch (const std::exception& error) {
    return absl::InvalidArgumentError(
        absl::StrCat("--metrics ", address, ": ", error.what(), "; give a free PORT or HOST:PORT"));
  }
  impl->exposer->RegisterCollectable(impl);
  std::unique_ptr<MetricsServer> server(new MetricsServer(std::move(impl)));
  spdlog::info("metrics for Prometheus on port {}", server->port());
  return server;
}

int MetricsServer::port() const { return impl_->exposer->GetListeningPorts().front(); }

}  // namespace intermix
