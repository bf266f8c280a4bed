#include "runtime/bench/device_data.h"

#include <algorithm>

#include "kernels/core/check.h"
#include "runtime/bench/random_weight.h"

namespace intermix {
namespace {

// A larger tensor repeats its values: they are random enough for any clock or cache.
constexpr int64_t kDistinctBytes = int64_t{16} << 20;

}  // namespace

Tensor DeviceData::Zeros(DType dtype, std::initializer_list<int64_t> shape) {
  int64_t elements = 1;
  for (const int64_t extent : shape) elements *= extent;
  buffers_.push_back(backend_.Allocate(static_cast<size_t>(elements) * ByteSize(dtype)));
  return buffers_.back().View(dtype, shape);
}

Tensor DeviceData::Random(DType dtype, std::initializer_list<int64_t> shape) {
  const Tensor tensor = Zeros(dtype, shape);
  const int64_t element_bytes = static_cast<int64_t>(ByteSize(dtype));
  const int64_t distinct = std::min(tensor.num_elements(), kDistinctBytes / element_bytes);
  if (distinct == 0) return tensor;
  OwnedTensor values;
  if (dtype == DType::kI8) {
    values = OwnedTensor::Host(dtype, {(distinct + 7) / 8 * 8});
    FillRandomBits(seed_, static_cast<uint64_t*>(values.view.raw()),
                   static_cast<size_t>(distinct + 7) / 8);
  } else {
    CHECK(dtype == DType::kF32 || dtype == DType::kBF16) << Name(dtype);
    values = RandomValues(dtype, 1, distinct, 1.0, seed_);
  }
  ++seed_;
  for (int64_t begin = 0; begin < tensor.num_elements(); begin += distinct) {
    const int64_t count = std::min(distinct, tensor.num_elements() - begin);
    char* to = static_cast<char*>(tensor.raw()) + begin * element_bytes;
    backend_.CopyToDevice(values.view.raw(), Tensor(to, dtype, {count}, tensor.device()));
  }
  return tensor;
}

KvLayer DeviceData::Cache(DType dtype, int64_t num_blocks, int64_t num_kv_heads, int64_t block_size,
                          int64_t head_dim) {
  KvLayer cache = {.k = Random(dtype, {num_blocks, num_kv_heads, block_size, head_dim}),
                   .v = Random(dtype, {num_blocks, num_kv_heads, block_size, head_dim})};
  if (dtype == DType::kI8) {
    cache.k_scales = Zeros(DType::kF32, {num_blocks, num_kv_heads, block_size});
    cache.v_scales = Zeros(DType::kF32, {num_blocks, num_kv_heads, block_size});
  }
  return cache;
}

Tensor DeviceData::Ints(const std::vector<int32_t>& values, int64_t cols) {
  const auto count = static_cast<int64_t>(values.size());
  const Tensor tensor =
      cols == 0 ? Zeros(DType::kI32, {count}) : Zeros(DType::kI32, {count / cols, cols});
  if (count > 0) backend_.CopyToDevice(values.data(), tensor);
  return tensor;
}

Activations DeviceData::Rows(bool quantized, int64_t tokens, int64_t k) {
  if (!quantized) return {.values = Random(DType::kF32, {tokens, k})};
  const Activations rows{.values = Zeros(DType::kI8, {tokens, k}),
                         .scales = Zeros(DType::kF32, {tokens})};
  const Tensor x = Random(DType::kF32, {tokens, k});
  backend_.QuantizeRows(x, Tensor(), rows);
  return rows;
}

}  // namespace intermix
