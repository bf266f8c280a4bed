// The functions of NCCL that we call, found in libnccl.so.2 when the first communicator is made.
// Immutable after that; NCCL's own rules say which thread may call what.
#pragma once

#include <nccl.h>

#include "absl/status/statusor.h"

namespace intermix {

struct NcclLibrary {
  decltype(&ncclGetErrorString) GetErrorString;
  decltype(&ncclGetLastError) GetLastError;
  decltype(&ncclGetUniqueId) GetUniqueId;
  decltype(&ncclCommInitRank) CommInitRank;
  decltype(&ncclCommSplit) CommSplit;
  decltype(&ncclCommDestroy) CommDestroy;
  decltype(&ncclCommAbort) CommAbort;
  decltype(&ncclCommGetAsyncError) CommGetAsyncError;
  decltype(&ncclGroupStart) GroupStart;
  decltype(&ncclGroupEnd) GroupEnd;
  decltype(&ncclBroadcast) Broadcast;
  decltype(&ncclAllGather) AllGather;
  decltype(&ncclAllReduce) AllReduce;
  decltype(&ncclSend) Send;
  decltype(&ncclRecv) Recv;
};

//   UNAVAILABLE: no NCCL here, or one before 2.18; says what to do.
absl::StatusOr<NcclLibrary> OpenNccl();

}  // namespace intermix
