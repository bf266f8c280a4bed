// The fake NCCL's API: communicators, groups, and the operations that go to a stream. Work is done
// when the stream runs, as on a GPU; buffers must be device memory.
#include "tests/emulator/fake_nccl.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "tests/emulator/nccl_execution.h"
#include "tests/emulator/nccl_link.h"
#include "tests/emulator/report.h"
#include "tests/emulator/submit.h"

namespace emu {
namespace {

std::atomic<ncclResult_t> broken = ncclSuccess;

}  // namespace

void BreakNccl(ncclResult_t error) { broken = error; }

}  // namespace emu

struct ncclComm {
  std::shared_ptr<emu::Comm> state;
};

namespace emu {
namespace {

struct Pending {
  std::shared_ptr<Comm> comm;
  cudaStream_t stream;
  std::vector<Call> calls;
};
constinit thread_local int group_depth = 0;
thread_local std::vector<Pending> group;

ncclResult_t Submit(const Pending& pending) {
  const cudaError_t error = SubmitTo(pending.stream, [&](Device& device) {
    return Request{.what = std::string("NCCL, ") + KindName(pending.calls.front().header.kind),
                   .make = [&device, comm = pending.comm, calls = pending.calls] {
                     return [&device, comm, calls] { RunCalls(device, *comm, calls); };
                   }};
  });
  return error == cudaSuccess ? ncclSuccess : ncclUnhandledCudaError;
}

// Whether the device that the stream belongs to holds what the call reads and writes.
bool HoldsBuffers(const Call& call, const Comm& comm, cudaStream_t stream) {
  const Device& device = DeviceOfStream(stream);
  const size_t all = static_cast<size_t>(comm.num_ranks) * call.bytes();
  const size_t in = call.header.kind == Kind::kReduceScatter ? all : call.bytes();
  const size_t out = call.header.kind == Kind::kAllGather ? all : call.bytes();
  const bool reads = call.header.kind != Kind::kBroadcast || call.header.root == comm.rank;
  return (call.in == nullptr || !reads || device.Holds(call.in, in)) &&
         (call.out == nullptr || device.Holds(call.out, out));
}

ncclResult_t Add(ncclComm_t handle, cudaStream_t stream, const Call& call) {
  if (handle == nullptr || handle->state->aborted) return ncclInvalidArgument;
  Comm& comm = *handle->state;
  const int other = call.header.kind == Kind::kPeer ? call.peer : call.header.root;
  if (other < 0 || other >= comm.num_ranks) return ncclInvalidArgument;
  if (!HoldsBuffers(call, comm, stream)) {
    Violate(Violation::kInvalidArgument,
            "NCCL: the buffers of " + call.header.ToString() + " are not memory of the device");
    return ncclInvalidArgument;
  }
  if (group_depth == 0) return Submit({handle->state, stream, {call}});
  for (Pending& pending : group) {
    if (pending.comm != handle->state) continue;
    if (pending.stream != stream) return ncclInvalidUsage;
    pending.calls.push_back(call);
    return ncclSuccess;
  }
  group.push_back({handle->state, stream, {call}});
  return ncclSuccess;
}

ncclResult_t Join(const ncclUniqueId& id, int num_ranks, int rank, ncclComm_t* handle) {
  auto comm = std::make_shared<Comm>();
  comm->num_ranks = num_ranks;
  comm->rank = rank;
  std::string problem;
  comm->link = Connect(id, num_ranks, rank, &problem);
  if (comm->link == nullptr) {
    Violate(Violation::kInvalidArgument, "NCCL: " + problem);
    return ncclRemoteError;
  }
  *handle = new ncclComm{std::move(comm)};
  return ncclSuccess;
}

struct SplitOffer {
  int color;
  int key;
  int rank;
  ncclUniqueId id;  // the group's, if this rank is its first
};

}  // namespace
}  // namespace emu

using emu::Add;
using emu::Kind;

extern "C" {

const char* ncclGetErrorString(ncclResult_t result) {
  switch (result) {
    case ncclSuccess:
      return "no error";
    case ncclUnhandledCudaError:
      return "unhandled cuda error";
    case ncclSystemError:
      return "unhandled system error";
    case ncclInternalError:
      return "internal error";
    case ncclInvalidArgument:
      return "invalid argument";
    case ncclInvalidUsage:
      return "invalid usage";
    case ncclRemoteError:
      return "remote process exited or there was a network error";
    case ncclInProgress:
      return "NCCL operation in progress";
  }
  return "unknown result code";
}

const char* ncclGetLastError(ncclComm_t comm) {
  return comm == nullptr ? "" : comm->state->problem.c_str();
}

ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
  *id = emu::MakeNcclId();
  return ncclSuccess;
}

ncclResult_t ncclCommInitRank(ncclComm_t* comm, int num_ranks, ncclUniqueId id, int rank) {
  if (num_ranks < 1 || rank < 0 || rank >= num_ranks) return ncclInvalidArgument;
  return emu::Join(id, num_ranks, rank, comm);
}

ncclResult_t ncclCommSplit(ncclComm_t handle, int color, int key, ncclComm_t* group,
                           ncclConfig_t*) {
  emu::Comm& comm = *handle->state;
  const emu::Header header = {.kind = Kind::kSplit};
  const emu::SplitOffer mine = {color, key, comm.rank, emu::MakeNcclId()};
  for (int r = 0; r < comm.num_ranks; ++r) {
    comm.link->Send(emu::NcclLink::kHost, r, emu::Pack(header, &mine, sizeof(mine)));
  }
  std::vector<emu::SplitOffer> members;
  for (int r = 0; r < comm.num_ranks; ++r) {
    emu::Message payload;
    if (!emu::Take(comm, emu::NcclLink::kHost, r, header, &payload)) return ncclRemoteError;
    emu::SplitOffer offer;
    std::memcpy(&offer, payload.data(), sizeof(offer));
    if (offer.color == color) members.push_back(offer);
  }
  *group = nullptr;
  if (color == NCCL_SPLIT_NOCOLOR) return ncclSuccess;
  std::stable_sort(members.begin(), members.end(),
                   [](const auto& a, const auto& b) { return a.key < b.key; });
  const auto me = std::find_if(members.begin(), members.end(),
                               [&](const auto& member) { return member.rank == comm.rank; });
  return emu::Join(members.front().id, static_cast<int>(members.size()),
                   static_cast<int>(me - members.begin()), group);
}

ncclResult_t ncclCommDestroy(ncclComm_t comm) {
  delete comm;
  return ncclSuccess;
}

// Operations under way end without their results; the handle stays valid for who still holds it.
ncclResult_t ncclCommAbort(ncclComm_t comm) {
  comm->state->aborted = true;
  return ncclSuccess;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t* error) {
  const std::lock_guard lock(comm->state->mutex);
  *error = comm->state->error != ncclSuccess ? comm->state->error : emu::broken.load();
  return ncclSuccess;
}

ncclResult_t ncclGroupStart() {
  ++emu::group_depth;
  return ncclSuccess;
}

ncclResult_t ncclGroupEnd() {
  if (emu::group_depth == 0) return ncclInvalidUsage;
  if (--emu::group_depth > 0) return ncclSuccess;
  ncclResult_t result = ncclSuccess;
  for (const emu::Pending& pending : std::exchange(emu::group, {})) {
    if (result == ncclSuccess) result = emu::Submit(pending);
  }
  return result;
}

ncclResult_t ncclBroadcast(const void* in, void* out, size_t count, ncclDataType_t type, int root,
                           ncclComm_t comm, cudaStream_t stream) {
  return Add(comm, stream,
             {.header = {.kind = Kind::kBroadcast, .type = type, .root = root, .count = count},
              .in = in,
              .out = out});
}

ncclResult_t ncclAllGather(const void* in, void* out, size_t count, ncclDataType_t type,
                           ncclComm_t comm, cudaStream_t stream) {
  return Add(
      comm, stream,
      {.header = {.kind = Kind::kAllGather, .type = type, .count = count}, .in = in, .out = out});
}

ncclResult_t ncclAllReduce(const void* in, void* out, size_t count, ncclDataType_t type,
                           ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream) {
  return Add(comm, stream,
             {.header = {.kind = Kind::kAllReduce, .type = type, .op = op, .count = count},
              .in = in,
              .out = out});
}

ncclResult_t ncclReduceScatter(const void* in, void* out, size_t count, ncclDataType_t type,
                               ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream) {
  return Add(comm, stream,
             {.header = {.kind = Kind::kReduceScatter, .type = type, .op = op, .count = count},
              .in = in,
              .out = out});
}

ncclResult_t ncclSend(const void* in, size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t stream) {
  return Add(
      comm, stream,
      {.header = {.kind = Kind::kPeer, .type = type, .count = count}, .in = in, .peer = peer});
}

ncclResult_t ncclRecv(void* out, size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t stream) {
  return Add(
      comm, stream,
      {.header = {.kind = Kind::kPeer, .type = type, .count = count}, .out = out, .peer = peer});
}

}  // extern "C"
