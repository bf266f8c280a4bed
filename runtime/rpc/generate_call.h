// GenerateCall: one running Generate RPC, between its answers' RequestStreams and its gRPC stream.
//
// Holds no thread: it moves when its request is ready or refused (on a thread that turns text into
// tokens), when the engine has something (on the delivery thread), when a write is through, or when
// the client is gone (on gRPC's threads). At most one write is in flight; what comes meanwhile
// waits merged in the RequestStreams, so a slow reader costs memory for its own tokens only.
#pragma once

#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "grpcpp/grpcpp.h"
#include "runtime/engine/engine.h"
#include "runtime/engine/request.h"
#include "runtime/rpc/answer_builder.h"
#include "runtime/rpc/delivery_thread.h"
#include "runtime/rpc/live_requests.h"
#include "runtime/rpc/request_record.h"

namespace intermix {

// What a call that was cancelled at `now` ends with. At its deadline a client cancels by itself,
// and is often first: gRPC rounds up, by up to a hundredth, what it tells the server of the time
// left. So shortly before the deadline is the deadline.
absl::Status WhyCancelled(absl::Time started, absl::Time deadline, absl::Time now);

class GenerateCall final : public grpc::ServerWriteReactor<grpc::ByteBuffer>,
                           public Deliverable,
                           public LiveCall,
                           public std::enable_shared_from_this<GenerateCall> {
 public:
  struct Options {
    std::string traceparent;  // a valid one, or empty
    absl::Time deadline = absl::InfiniteFuture();
    RequestObserver on_end = nullptr;  // where there is one: called when it is over
  };
  // The reactor for gRPC, which owns itself until OnDone; null where `live` takes no more calls.
  // `live`, which has the call until OnDone, outlives it.
  static std::shared_ptr<GenerateCall> Start(LiveRequests& live, Options options);

  // Once, as soon as the request is read: the client's id, for abort, and what the log calls it.
  void Identify(const std::string& id, const std::string& log_id);

  // Once, unless it fails before: the engine has the request. `answer` is a builder that has taken
  // nothing yet, for each of `streams`. `delivery` outlives the call.
  struct Request {
    Engine::Streams streams;
    AnswerBuilder answer;
    uint64_t seed = 0;
    int32_t prompt_tokens = 0;
  };
  void Begin(const Request& request, DeliveryThread& delivery);
  bool over();  // it needs no request any more

  void Abort() override;
  void Fail(const absl::Status& status) override;
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
    int32_t tokens = 0;                  // taken
    std::optional<TokenDelta> end = {};  // how it ended, once known
    bool done = false;                   // and said
  };

  GenerateCall(LiveRequests& live, Options options) : live_(live), options_(std::move(options)) {}
  void NoteCancelled();  // mutex_ held, as for what follows
  void CancelStreams();  // mutex_ held, as for what follows
  Action NextAction();
  Action ActionFor(Choice& choice);
  Action EndOf(Choice& choice);
  Action EndWith(const absl::Status& status);
  RequestRecord Record();

  LiveRequests& live_;
  const Options options_;
  const absl::Time started_ = absl::Now();
  uint64_t live_number_ = 0;
  std::shared_ptr<GenerateCall> self_;  // until OnDone

  std::mutex mutex_;             // guards what follows; the engine thread never takes it
  std::vector<Choice> choices_;  // empty until Begin
  size_t next_choice_ = 0;       // they take turns
  uint64_t seed_ = 0;
  bool writing_ = false;                 // a write is in flight
  bool finishing_ = false;               // Finish was called: nothing more may be
  std::optional<absl::Time> cancelled_;  // when the client was found gone
  bool aborted_ = false;
  absl::Status failure_;  // not OK: it ends with this
  absl::Status outcome_;  // how it ended, where it has
  std::string log_id_;
  int32_t prompt_tokens_ = 0;
  absl::Time first_token_ = absl::InfiniteFuture();
  grpc::ByteBuffer message_;  // lives while writing_
};

}  // namespace intermix
