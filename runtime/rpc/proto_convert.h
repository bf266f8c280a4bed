// Between the wire's messages and the engine's values. Pure functions; any thread.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "comm/parallel_layout.h"
#include "google/protobuf/duration.pb.h"
#include "grpcpp/support/status.h"
#include "intermix/v1/control.pb.h"
#include "intermix/v1/inference.pb.h"
#include "runtime/engine/engine.h"
#include "runtime/engine/request.h"
#include "runtime/rpc/answer_builder.h"
#include "runtime/rpc/front.h"

namespace intermix {

// Tokenises, fills defaults in, and draws a seed where none is given. id and deadline stay unset.
//   INVALID_ARGUMENT naming the field. What only the engine knows (vocabulary, context) it checks.
absl::StatusOr<GenerateRequest> FromProto(const v1::GenerateRequest& proto,
                                          const FrontModel& model);

// How many answers are wanted.  INVALID_ARGUMENT where no int32_t can hold it.
absl::StatusOr<int32_t> NumChoices(const v1::GenerateRequest& proto);

// What `part` brings of answer `index`.
v1::GenerateResponse DeltaToProto(const AnswerPart& part, uint32_t index);

// `last` is finished with an OK status.
v1::GenerateResponse CompletionToProto(const TokenDelta& last, uint64_t seed, uint32_t index);

v1::Layout LayoutToProto(const ParallelLayout& layout);
v1::EngineInfo EngineToProto(const EngineSnapshot& snapshot, const EngineOptions& options);

// "stepping", say.
std::string PhaseText(v1::RankPhase phase);

google::protobuf::Duration DurationToProto(absl::Duration duration);
absl::Duration DurationFromProto(const google::protobuf::Duration& proto);

// Codes are the same numbers on both sides. What goes to gRPC has a google.rpc.ErrorInfo in its
// details, whose reason is the code's name.
grpc::Status ToGrpc(const absl::Status& status);
absl::Status FromGrpc(const grpc::Status& status);

}  // namespace intermix
