// KvCache: the paged storage of one rank's K and V heads, all layers. Which block belongs to whom
// is BlockManager's business (rank 0); ranks only follow the block tables in each Batch.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/backend.h"
#include "kernels/core/buffer.h"

namespace intermix {

struct KvCacheShape {
  int64_t num_layers = 0;
  int64_t num_blocks = 0;
  int64_t num_kv_heads = 0;  // of this rank
  int64_t block_size = 16;   // positions
  int64_t head_dim = 0;

  // Bytes of one block over all layers, K and V.
  int64_t bytes_per_block() const {
    return 2 * num_layers * num_kv_heads * block_size * head_dim *
           static_cast<int64_t>(ByteSize(DType::kBF16));
  }
};

class KvCache {
 public:
  KvCache(const KvCacheShape& shape, Backend& backend)
      : shape_(shape),
        storage_(
            backend.Allocate(static_cast<size_t>(shape.num_blocks * shape.bytes_per_block()))) {}

  const KvCacheShape& shape() const { return shape_; }
  int64_t bytes() const { return shape_.num_blocks * shape_.bytes_per_block(); }

  KvLayer layer(int64_t index) const {
    const int64_t half = shape_.num_blocks * shape_.bytes_per_block() / (2 * shape_.num_layers);
    return {.k = View(2 * index * half), .v = View((2 * index + 1) * half)};
  }

 private:
  Tensor View(int64_t offset) const {
    return storage_.View(
        DType::kBF16, {shape_.num_blocks, shape_.num_kv_heads, shape_.block_size, shape_.head_dim},
        static_cast<size_t>(offset));
  }

  KvCacheShape shape_;
  Buffer storage_;
};

}  // namespace intermix
