#include "runtime/checkpoint/weight_rows.h"

#include <cstring>
#include <memory>

#include "kernels/core/buffer.h"
#include "kernels/core/check.h"
#include "runtime/checkpoint/row_chunks.h"

namespace intermix {
namespace {

constexpr size_t kRowAlignment = 64;

size_t RoundUp(int64_t bytes) {
  return (static_cast<size_t>(bytes) + kRowAlignment - 1) / kRowAlignment * kRowAlignment;
}

// Copies all of `source` into `destination` from row `row` on; both contiguous, or both empty.
void CopyRows(const Tensor& source, const Tensor& destination, int64_t row) {
  if (source.empty() || source.rows() == 0) return;
  CHECK(source.contiguous());
  CHECK(source.dtype() == destination.dtype());
  const Tensor target = destination.Rows(row, row + source.rows());
  std::memcpy(target.raw(), source.raw(), static_cast<size_t>(source.bytes()));
}

}  // namespace

QuantizedWeight AllocateWeight(const WeightFormat& format, int64_t n, int64_t k,
                               DType codes_dtype) {
  QuantizedWeight weight{.format = format, .n = n, .k = k};
  const bool packed = format.scheme != Scheme::kNone && format.bits == 4;
  const DType dtype = format.scheme == Scheme::kNone ? codes_dtype
                      : packed                       ? DType::kU8
                                                     : DType::kI8;
  const int64_t code_columns = packed ? k / 2 : k;
  const int64_t groups = weight.num_groups();
  const DType scale_dtype = format.scheme == Scheme::kInteger ? DType::kI16 : DType::kF32;
  const size_t codes_bytes = RoundUp(n * code_columns * static_cast<int64_t>(ByteSize(dtype)));
  const size_t scales_bytes = RoundUp(n * groups * static_cast<int64_t>(ByteSize(scale_dtype)));
  const size_t channel_bytes = format.scheme == Scheme::kInteger ? RoundUp(n * 4) : 0;
  auto buffer = std::make_shared<Buffer>(Buffer::Host(codes_bytes + scales_bytes + channel_bytes));
  weight.codes = buffer->View(dtype, {n, code_columns});
  if (groups > 0) weight.group_scales = buffer->View(scale_dtype, {n, groups}, codes_bytes);
  if (format.scheme == Scheme::kInteger) {
    weight.channel_scales = buffer->View(DType::kF32, {n}, codes_bytes + scales_bytes);
  }
  weight.owner = std::move(buffer);
  return weight;
}

QuantizedWeight StackRows(const std::vector<QuantizedWeight>& parts, int64_t n) {
  CHECK(!parts.empty());
  QuantizedWeight stacked = AllocateWeight(parts[0].format, n, parts[0].k, parts[0].codes.dtype());
  std::vector<int64_t> begins;
  int64_t row = 0;
  for (const QuantizedWeight& part : parts) {
    CHECK(part.format == stacked.format);
    CHECK_EQ(part.k, stacked.k);
    begins.push_back(row);
    row += part.n;
  }
  CHECK_LE(row, n);
  const auto num_parts = static_cast<int64_t>(parts.size());
  ForEachChunk(num_parts, 1, [&](int64_t i, Slice) {
    CopyRows(parts[i].codes, stacked.codes, begins[i]);
    CopyRows(parts[i].group_scales, stacked.group_scales, begins[i]);
    CopyRows(parts[i].channel_scales, stacked.channel_scales, begins[i]);
  });
  return stacked;
}

}  // namespace intermix
