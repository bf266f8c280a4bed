// Small arithmetic on the per-rank sizes that collectives take.
#pragma once

#include <cstdint>
#include <numeric>
#include <span>
#include <vector>

#include "kernels/core/tensor.h"

namespace intermix {

inline int64_t Total(std::span<const int64_t> values) {
  return std::accumulate(values.begin(), values.end(), int64_t{0});
}

// Rows of each rank -> bytes of each rank.
inline std::vector<int64_t> RowBytes(std::span<const int64_t> rows, int64_t bytes_per_row) {
  std::vector<int64_t> bytes;
  for (int64_t count : rows) bytes.push_back(count * bytes_per_row);
  return bytes;
}

inline int64_t BytesPerRow(const Tensor& t) {
  return (t.rank() == 1 ? 1 : t.cols()) * static_cast<int64_t>(ByteSize(t.dtype()));
}

}  // namespace intermix
