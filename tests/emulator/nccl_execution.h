// What the fake NCCL does when a stream reaches an operation.
//
// Every operation exchanges a header with each rank that it involves, so ranks that disagree on
// what comes next, or on its size, are told so instead of hanging.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "tests/emulator/device.h"
#include "tests/emulator/nccl_link.h"

namespace emu {

enum class Kind : int32_t { kBroadcast, kAllGather, kAllReduce, kReduceScatter, kPeer, kSplit };
// What two ranks must agree on before bytes pass between them.
struct Header {
  Kind kind;
  int32_t type;
  int32_t op;
  int32_t root;
  uint64_t count;
  uint64_t number;  // of the communicator's collectives; 0 for a send

  friend bool operator==(const Header&, const Header&) = default;
  std::string ToString() const;
};

// One rank of a communicator. What the stream runs is guarded by the device's mutex.
struct Comm {
  int num_ranks = 1;
  int rank = 0;
  std::unique_ptr<NcclLink> link;
  std::atomic<bool> aborted = false;
  uint64_t num_collectives = 0;  // on the stream
  std::mutex mutex;
  ncclResult_t error = ncclSuccess;
  std::string problem;

  void Fail(ncclResult_t result, const std::string& what) {
    const std::lock_guard lock(mutex);
    if (error != ncclSuccess) return;
    error = result;
    problem = what;
  }
};

// One call of the API. An absent buffer is null.
struct Call {
  Header header;
  const void* in = nullptr;
  void* out = nullptr;
  int peer = -1;  // of a send (in) or a receive (out)
  size_t bytes() const;
};

Message Pack(const Header& header, const void* data, size_t bytes);

// The payload of the next message from `from`, which must have this header; false after a failure.
bool Take(Comm& comm, NcclLink::Channel channel, int from, const Header& header, Message* payload);

// The calls of one group on one communicator. First everything is sent, then everything is
// received: within a group nothing waits for anything else.
void RunCalls(Device& device, Comm& comm, const std::vector<Call>& calls);

const char* KindName(Kind kind);

}  // namespace emu
