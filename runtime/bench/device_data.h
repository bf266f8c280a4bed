// DeviceData: tensors in a device's memory, filled with random values or given ones, for one
// measurement; owns them all. Used by one thread; the backend outlives it.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <vector>

#include "kernels/backend.h"

namespace intermix {

inline constexpr int32_t kCacheBlockSize = 16;  // positions in a block of a cache that is measured

class DeviceData {
 public:
  explicit DeviceData(Backend& backend) : backend_(backend) {}

  // Zeros.
  Tensor Zeros(DType dtype, std::initializer_list<int64_t> shape);

  // Floats of about unit variance, or int8 of the whole range.
  Tensor Random(DType dtype, std::initializer_list<int64_t> shape);

  // [n], or [n / cols, cols].
  Tensor Ints(const std::vector<int32_t>& values, int64_t cols = 0);

  // One layer of a cache of `dtype` (see KvCacheShape).
  KvLayer Cache(DType dtype, int64_t num_blocks, int64_t num_kv_heads, int64_t block_size,
                int64_t head_dim);

  // Rows as a linear layer takes them: int8 with scales, or float32.
  Activations Rows(bool quantized, int64_t tokens, int64_t k);

 private:
  Backend& backend_;
  std::vector<Buffer> buffers_;
  uint64_t seed_ = 1;
};

}  // namespace intermix
