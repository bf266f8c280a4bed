// NcclLink: ordered messages between the ranks of one fake NCCL communicator, over MPI where the
// process is an MPI rank, else between threads of the process. Sending never waits.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "tests/emulator/include/nccl.h"

namespace emu {

using Message = std::vector<char>;

class NcclLink {
 public:
  // Host calls and the work of streams are in no order to each other, so each has its own.
  enum Channel { kHost = 0, kStream = 1 };

  virtual ~NcclLink() = default;
  virtual void Send(Channel channel, int to, Message message) = 0;
  // False where no message has come yet.
  virtual bool TryReceive(Channel channel, int from, Message* message) = 0;
};

// An id that no other communicator has; its first user's process must be the one that made it.
ncclUniqueId MakeNcclId();

// Meets the other ranks that use `id`; null where they do not come or disagree: says why.
std::unique_ptr<NcclLink> Connect(const ncclUniqueId& id, int num_ranks, int rank,
                                  std::string* problem);

// How long a rank waits for another before it counts as missing.
inline constexpr int kNcclPatienceMs = 30000;

// Waits a moment for somebody else's progress; `polls` counts the calls.
void PauseBetweenPolls(int* polls);

}  // namespace emu
