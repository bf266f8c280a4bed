#include "runtime/engine/kv_sizing.h"

#include <algorithm>
#include <vector>

#include "absl/strings/str_cat.h"

namespace intermix {
namespace {

constexpr int64_t kAutoSequences = 16;

int64_t LocalBlocks(const KvSizing& sizing, const KvCacheShape& shape) {
  if (sizing.memory_bytes > 0) return sizing.memory_bytes / shape.bytes_per_block();
  if (sizing.fraction > 0.0) {
    const double bytes = sizing.fraction * static_cast<double>(sizing.free_bytes);
    return static_cast<int64_t>(bytes) / shape.bytes_per_block();
  }
  const int64_t per_sequence = (sizing.max_context + shape.block_size - 1) / shape.block_size;
  const int64_t fits = sizing.free_bytes / 2 / shape.bytes_per_block();
  return std::min(kAutoSequences * per_sequence, fits);
}

}  // namespace

absl::StatusOr<int64_t> DecideKvBlocks(const KvSizing& sizing, const KvCacheShape& shape,
                                       Communicator& control) {
  const int64_t mine = LocalBlocks(sizing, shape);
  std::vector<int64_t> all(control.size());
  control.AllGather(&mine, all.data(), std::vector<int64_t>(control.size(), sizeof(mine)));
  const int64_t blocks = std::ranges::min(all);
  if (blocks < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("the KV cache needs at least ", shape.bytes_per_block(),
                     " bytes per rank for one block of ", shape.block_size,
                     " positions; give more with --kv-memory or free some memory"));
  }
  return blocks;
}

absl::StatusOr<int32_t> DecideMaxContext(int32_t wanted, const ModelConfig& config) {
  const int64_t limit = config.max_position_embeddings;
  if (wanted > limit) {
    return absl::InvalidArgumentError(
        absl::StrCat("a context of ", wanted, " tokens is longer than the model's ", limit));
  }
  return static_cast<int32_t>(wanted > 0 ? wanted : limit);
}

}  // namespace intermix
