#include "kernels/core/host_memory.h"

#include <fstream>
#include <string>

namespace intermix {

int64_t AvailableHostBytes() {
  std::ifstream file("/proc/meminfo");
  for (std::string key; file >> key;) {
    int64_t kib = 0;
    if (key == "MemAvailable:" && file >> kib) return kib * 1024;
  }
  return int64_t{1} << 40;
}

}  // namespace intermix
