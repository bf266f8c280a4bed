// RequestRecord: what became of one Generate call, for a log; and the trace that it belongs to.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "runtime/engine/request.h"

namespace intermix {

struct RequestRecord {
  std::string id;           // the client's, as it stands; or ours, "#1"; empty where none was read
  std::string traceparent;  // the client's; empty: none, or a malformed one
  int32_t prompt_tokens = 0;
  int32_t cached_tokens = 0;                  // of these, found in the prefix cache
  int32_t output_tokens = 0;                  // of all answers, as far as they were sent
  std::optional<absl::Duration> queued;       // until its first step
  std::optional<absl::Duration> first_token;  // until that was on its way
  absl::Duration total;                       // until the call was over
  absl::Status status;
  std::vector<FinishReason> finish_reasons;  // of the answers that came to their end
};

// Called on gRPC's threads, from several at once: it must not wait.
using RequestObserver = std::function<void(const RequestRecord&)>;

// The traceparent of a request's metadata (W3C Trace Context, "traceparent Header"), without what a
// later version may add; empty where it is malformed.
std::string ValidTraceparent(std::string_view header);

}  // namespace intermix
