// What tests may do to the fake NCCL besides calling it.
#pragma once

#include "tests/emulator/include/nccl.h"

namespace emu {

// From now on ncclCommGetAsyncError of every communicator of this process says `error`.
void BreakNccl(ncclResult_t error);

}  // namespace emu
