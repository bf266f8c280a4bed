// The lines of `client generate --file`: a request in, an answer out, both JSON. Pure functions.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "absl/status/statusor.h"
#include "grpcpp/grpcpp.h"
#include "intermix/v1/inference.pb.h"
#include "launch/request_options.h"

namespace intermix {

// A line is a prompt as a JSON string, or an object with the fields of GenerateRequest:
//   {"request_id": "a", "text": "And it came", "sampling": {"max_tokens": 8}}
// where "id" and "prompt" may stand for "request_id" and "text". What it leaves out comes from the
// command line; what is repeated there is added to.
//   INVALID_ARGUMENT: it is neither.
absl::StatusOr<v1::GenerateRequest> ParseBatchLine(const std::string& line,
                                                   const RequestOptions& defaults);

// An answer as it comes.
class BatchAnswer {
 public:
  void Take(const v1::GenerateResponse& response);
  bool empty() const { return choices_.empty(); }

  // {"index": 0, "id": "a", "text": "...", "finish_reason": "stop", "matched_stop": ...,
  //  "seed": 1, "usage": {"prompt_tokens": 3, "completion_tokens": 8}}
  // with "choices" in place of "text" to "seed" where there are several answers; or, of a failure,
  // {"index": 0, "id": "a", "error": {"code": "INVALID_ARGUMENT", "message": "..."}}. No newline.
  std::string Line(int64_t index, const v1::GenerateRequest& request,
                   const grpc::Status& status) const;

 private:
  struct Choice {
    std::string text;
    v1::Completion completion;
  };
  std::map<uint32_t, Choice> choices_;
};

// "INVALID_ARGUMENT".
std::string CodeName(grpc::StatusCode code);

}  // namespace intermix
