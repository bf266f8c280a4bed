#include "runtime/rpc/attend_call.h"

#include <utility>

#include "runtime/rpc/proto_convert.h"

namespace intermix {

AttendCall::AttendCall(ClusterTable& table,
                       std::function<absl::Status(const std::string& job_id)> check_job)
    : table_(table), check_job_(std::move(check_job)) {
  StartRead(&request_);
}

void AttendCall::OnReadDone(bool ok) {
  if (!ok) return Finish(grpc::Status::OK);  // the rank ended the call, or is gone
  if (!rank_.has_value()) {
    absl::Status status = check_job_(request_.job_id());
    if (status.ok()) status = table_.Connect(request_.rank());
    if (!status.ok()) return Finish(ToGrpc(status));
    rank_ = request_.rank();
  }
  StartRead(&request_);
}

void AttendCall::OnDone() {
  if (rank_.has_value()) table_.Disconnect(*rank_);
  delete this;
}

}  // namespace intermix
