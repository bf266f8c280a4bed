// NcclCommunicator: ranks exchange the memory of NVIDIA GPUs, one GPU each. Collectives are ordered
// on the backend's stream and return when they are enqueued; Barrier and Split wait. Exchanges that
// were started (StartAllToAll) run on a second stream.
//
// One NCCL communicator serves both streams. Two at work at once could each hold the SMs that the
// other waits for, on different ranks, unless all ranks start them in one order. Here events put
// every collective behind the one before it, whichever stream it is on, and a CHECK refuses one
// that would be on the first stream while exchanges are under way on the second.
//
// NCCL is opened at run time (libnccl.so.2). NVLink multicast stays off unless NCCL_NVLS_ENABLE is
// set. A watchdog hears of NCCL's errors, and makes it let go when a peer is gone.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "comm/communicator.h"
#include "comm/watchdog.h"

namespace intermix {

struct NcclOptions {
  void* stream = nullptr;  // cudaStream_t of the calling thread's current GPU
  Watchdog& watchdog;      // stream and watchdog outlive the communicator and its splits
};

// Collective over `control`, the same ranks' communicator for host memory. One rank alone needs no
// NCCL. The same status on every rank.
//   UNAVAILABLE: this build has no NCCL, or the library cannot be opened; says why.
absl::StatusOr<std::unique_ptr<Communicator>> MakeNcclCommunicator(
    const NcclOptions& options, std::unique_ptr<Communicator> control);

}  // namespace intermix
