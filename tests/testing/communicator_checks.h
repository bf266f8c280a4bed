// What every Communicator must do; run by the tests of each implementation on all of its ranks.
#pragma once

#include "comm/communicator.h"

namespace intermix {

// Collective: every rank of `world` calls it. Failures are reported through gtest on each rank.
void CheckCollectives(Communicator& world);

}  // namespace intermix
