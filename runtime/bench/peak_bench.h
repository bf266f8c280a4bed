// `bench peak`: what the device can do at best, measured now. One thread.
#pragma once

#include <vector>

#include "runtime/bench/table.h"
#include "runtime/bench/turn_timer.h"

namespace intermix {

// One table, "limits": the limits of `timer`, in turns.
std::vector<Table> BenchLimits(TurnTimer& timer);

}  // namespace intermix
