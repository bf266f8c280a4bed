// AttendCall: one running Attend RPC: a rank's connection, as long as the rank lives. Holds no
// thread. The end of the rank's process ends the call at once, however it ends.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "grpcpp/grpcpp.h"
#include "intermix/v1/control.pb.h"
#include "runtime/rpc/cluster_table.h"

namespace intermix {

class AttendCall final : public grpc::ServerReadReactor<v1::AttendRequest> {
 public:
  // Owns itself until OnDone. `table` and what `check_job` uses outlive the server.
  AttendCall(ClusterTable& table, std::function<absl::Status(const std::string& job_id)> check_job);

  void OnReadDone(bool ok) override;
  void OnDone() override;

 private:
  ClusterTable& table_;
  const std::function<absl::Status(const std::string&)> check_job_;
  v1::AttendRequest request_;
  std::optional<uint32_t> rank_;  // whom the table has as connected by this call
};

}  // namespace intermix
