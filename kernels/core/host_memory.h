// How much memory this host has to spare. Any thread.
#pragma once

#include <cstdint>

namespace intermix {

// MemAvailable of /proc/meminfo; a large number where that cannot be read.
int64_t AvailableHostBytes();

}  // namespace intermix
