// GenerateCall: one running Generate RPC, between its answers' RequestStreams and its gRPC stream.
//
// Holds no thread: it moves when the engine has something (on the delivery thread), when a write is
// through, or when the client is gone (on gRPC's threads). At most one write is in flight; what
// comes meanwhile waits merged in the RequestStreams, so a slow reader costs memory for its own
// tokens only.
#pragma once

#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "grpcpp/grpcpp.h"
#include "runtime/engine/engine.h"
#include "runtime/engine/request.h"
#include "runtime/rpc/answer_builder.h"
#include "runtime/rpc/delivery_thread.h"
#include "runtime/rpc/live_requests.h"

namespace intermix {

class GenerateCall final : public grpc::ServerWriteReactor<grpc::ByteBuffer>, public Deliverable {
 public:
  // The reactor for gRPC, which owns itself until OnDone. `answer` is a builder that has taken
  // nothing yet, for each of `streams`. `delivery` and `live`, which has the call from Start to
  // OnDone by its client's `id`, outlive it.
  static GenerateCall* Start(const std::string& id, const Engine::Streams& streams,
                             const AnswerBuilder& answer, uint64_t seed, DeliveryThread& delivery,
                             LiveRequests& live);

  void Deliver() override;  // delivery thread
  void OnWriteDone(bool ok) override;
  void OnCancel() override;  // the client cancelled or vanished, or the deadline passed
  void OnDone() override;

 private:
  // What Deliver found to do; done outside the lock.
  struct Action {
    enum class Kind { kNothing, kWrite, kWriteAndFinish, kFinish };
    Kind kind = Kind::kNothing;
    grpc::Status status;
  };

  // One answer.
  struct Choice {
    std::shared_ptr<RequestStream> stream;
    AnswerBuilder answer;
    uint32_t index = 0;
    std::optional<TokenDelta> end = {};  // how it ended, once known
    bool done = false;                   // and said
  };

  GenerateCall(const std::string& id, const Engine::Streams& streams, const AnswerBuilder& answer,
               uint64_t seed, LiveRequests& live);
  void CancelStreams();
  Action NextAction();  // mutex_ held, as for what follows
  Action ActionFor(Choice& choice);
  Action EndOf(Choice& choice);

  const uint64_t seed_;
  LiveRequests& live_;
  const uint64_t live_number_;
  std::shared_ptr<GenerateCall> self_;  // until OnDone

  std::mutex mutex_;             // guards what follows; the engine thread never takes it
  std::vector<Choice> choices_;  // streams and indices are constant
  size_t next_choice_ = 0;       // they take turns
  bool writing_ = false;         // a write is in flight
  bool finishing_ = false;       // Finish was called: nothing more may be
  bool cancelled_ = false;
  grpc::ByteBuffer message_;  // lives while writing_
};

}  // namespace intermix
