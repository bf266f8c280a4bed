// ThreadCommunicator: N ranks in one process, one thread each; how tests run many ranks.
// Mismatched collectives (another call, other sizes) fail a CHECK instead of hanging.
#pragma once

#include <memory>
#include <vector>

#include "comm/communicator.h"

namespace intermix {

// One communicator for each of `size` ranks; each is then used by its own thread.
std::vector<std::unique_ptr<Communicator>> MakeThreadCommunicators(int size);

}  // namespace intermix
