// Runs a job of N ranks inside the test process.
#pragma once

#include <functional>
#include <memory>

#include "comm/communicator.h"

namespace intermix {

// Calls body on `size` threads at once, each with its rank's communicator; returns when all have
// returned. A body that fails to enter a collective hangs until ctest's timeout, by design.
void RunRanks(int size, const std::function<void(std::unique_ptr<Communicator> world)>& body);

}  // namespace intermix
