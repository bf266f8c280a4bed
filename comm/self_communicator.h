// SelfCommunicator: the group of one rank. Collectives are copies.
#pragma once

#include <memory>

#include "comm/communicator.h"

namespace intermix {

std::unique_ptr<Communicator> MakeSelfCommunicator();

}  // namespace intermix
