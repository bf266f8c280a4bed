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
  DType dtype = DType::kBF16;  // or kI8: codes, with a scale for each position and head

  // Bytes of one block of one layer, K or V: its values, and their scales.
  int64_t value_bytes() const {
    return num_kv_heads * block_size * head_dim * static_cast<int64_t>(ByteSize(dtype));
  }
  int64_t scale_bytes() const {
    return dtype == DType::kI8 ? num_kv_heads * block_size * int64_t{sizeof(float)} : 0;
  }
  // Bytes of one block over all layers, K and V.
  int64_t bytes_per_block() const { return 2 * num_layers * (value_bytes() + scale_bytes()); }
};

class KvCache {
 public:
  KvCache(const KvCacheShape& shape, Backend& backend)
      : shape_(shape),
        storage_(
            backend.Allocate(static_cast<size_t>(shape.num_blocks * shape.bytes_per_block()))) {
    CHECK(shape.dtype == DType::kBF16 || shape.dtype == DType::kI8) << Name(shape.dtype);
  }

  const KvCacheShape& shape() const { return shape_; }
  int64_t bytes() const { return shape_.num_blocks * shape_.bytes_per_block(); }

  KvLayer layer(int64_t index) const {
    KvLayer layer = {.k = Values(2 * index), .v = Values(2 * index + 1)};
    if (shape_.dtype == DType::kI8) {
      layer.k_scales = Scales(2 * index);
      layer.v_scales = Scales(2 * index + 1);
    }
    return layer;
  }

 private:
  // The storage is K and V of all layers, then the scales of all layers.
  Tensor Values(int64_t index) const {
    return storage_.View(
        shape_.dtype, {shape_.num_blocks, shape_.num_kv_heads, shape_.block_size, shape_.head_dim},
        static_cast<size_t>(index * shape_.num_blocks * shape_.value_bytes()));
  }
  Tensor Scales(int64_t index) const {
    const int64_t before = 2 * shape_.num_layers * shape_.value_bytes();
    return storage_.View(
        DType::kF32, {shape_.num_blocks, shape_.num_kv_heads, shape_.block_size},
        static_cast<size_t>(shape_.num_blocks * (before + index * shape_.scale_bytes())));
  }

  KvCacheShape shape_;
  Buffer storage_;
};

}  // namespace intermix
