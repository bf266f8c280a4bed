// InferenceService: the server side of intermix.v1.Inference, on gRPC's callback API.
//
// Takes requests as bytes, so that one that does not parse (a prompt that is not UTF-8, say) is
// refused with INVALID_ARGUMENT instead of gRPC's INTERNAL. Requests are read and tokenised on
// `pool`'s threads, so that gRPC's are free for heartbeats and health. Thread-safe.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "absl/time/time.h"
#include "grpcpp/grpcpp.h"
#include "intermix/v1/inference.grpc.pb.h"
#include "runtime/engine/engine.h"
#include "runtime/rpc/front.h"
#include "runtime/rpc/generate_call.h"
#include "runtime/rpc/request_record.h"
#include "runtime/rpc/task_pool.h"

namespace intermix {

class InferenceService final
    : public v1::Inference::WithRawCallbackMethod_Generate<v1::Inference::Service> {
 public:
  // `pool` outlives the gRPC server. `on_end`, which may be empty, hears of every call that is
  // over.
  InferenceService(TaskPool& pool, RequestObserver on_end)
      : pool_(pool), on_end_(std::move(on_end)) {}

  // Requests are UNAVAILABLE before Open and after Close. Open may be called once; `engine` and
  // the model's tokenizer outlive the gRPC server. Engine::Run has returned, so that no stream
  // moves any more, before the service goes.
  void Open(Engine& engine, const FrontModel& model);
  void Close(const std::string& why);
  void Reopen();  // after Open and Close

  LiveRequests& live() { return live_; }

  grpc::ServerWriteReactor<grpc::ByteBuffer>* Generate(grpc::CallbackServerContext* context,
                                                       const grpc::ByteBuffer* request) override;

 private:
  struct Backing {
    Engine* engine;
    FrontModel model;
  };

  absl::StatusOr<std::shared_ptr<const Backing>> GetOpen() const;
  absl::StatusOr<GenerateCall::Request> Submit(const grpc::ByteBuffer& bytes, absl::Time deadline,
                                               GenerateCall& call);

  TaskPool& pool_;
  const RequestObserver on_end_;
  std::atomic<uint64_t> num_requests_{0};  // for unique ids
  LiveRequests live_;
  DeliveryThread delivery_;

  mutable std::mutex mutex_;                // guards what follows
  std::shared_ptr<const Backing> backing_;  // set once, by Open
  bool open_ = false;
  std::string closed_because_ = "the model is still loading; try again later";
};

}  // namespace intermix
