#include "runtime/engine/kv_sizing.h"

#include <algorithm>
#include <fstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"

namespace intermix {
namespace {

constexpr int64_t kAutoSequences = 16;

// MemAvailable of /proc/meminfo; a large number where that cannot be read.
int64_t AvailableMemoryBytes() {
  std::ifstream file("/proc/meminfo");
  for (std::string key; file >> key;) {
    int64_t kib = 0;
    if (key == "MemAvailable:" && file >> kib) return kib * 1024;
  }
  return int64_t{1} << 40;
}

int64_t LocalBlocks(const KvSizing& sizing, const KvCacheShape& shape, int num_ranks) {
  if (sizing.memory_bytes > 0) return sizing.memory_bytes / shape.bytes_per_block();
  const int64_t per_sequence = (sizing.max_context + shape.block_size - 1) / shape.block_size;
  const int64_t fits = AvailableMemoryBytes() / 2 / num_ranks / shape.bytes_per_block();
  return std::min(kAutoSequences * per_sequence, fits);
}

}  // namespace

absl::StatusOr<int64_t> DecideKvBlocks(const KvSizing& sizing, const KvCacheShape& shape,
                                       Communicator& world) {
  const int64_t mine = LocalBlocks(sizing, shape, world.size());
  std::vector<int64_t> all(world.size());
  world.AllGather(&mine, all.data(), std::vector<int64_t>(world.size(), sizeof(mine)));
  const int64_t blocks = std::ranges::min(all);
  if (blocks < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("the KV cache needs at least ", shape.bytes_per_block(),
                     " bytes per rank for one block of ", shape.block_size,
                     " positions; give more with --kv-memory or free some memory"));
  }
  return blocks;
}

}  // namespace intermix
