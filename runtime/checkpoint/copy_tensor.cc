#include "runtime/checkpoint/copy_tensor.h"

#include <cstring>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/core/dtype.h"
#include "runtime/checkpoint/row_chunks.h"

namespace intermix {
namespace {

// Widens `count` elements of `source` to float32.
void Widen(const void* source, DType dtype, int64_t count, float* out) {
  if (dtype == DType::kF32) {
    std::memcpy(out, source, static_cast<size_t>(count) * sizeof(float));
    return;
  }
  const auto* bits = static_cast<const uint16_t*>(source);
  for (int64_t i = 0; i < count; ++i) {
    out[i] = dtype == DType::kF16 ? HalfToFloat(bits[i])
                                  : static_cast<float>(BFloat16::FromBits(bits[i]));
  }
}

void CopyElements(const Tensor& source, const Tensor& destination) {
  const int64_t count = source.cols();
  if (destination.dtype() == DType::kF32) {
    Widen(source.raw(), source.dtype(), count, destination.data<float>());
  } else {
    std::memcpy(destination.raw(), source.raw(), static_cast<size_t>(source.bytes()));
  }
}

}  // namespace

absl::StatusOr<OwnedTensor> CopyTensor(const TensorFiles& files, const CopyRequest& request) {
  const auto& [name, n, k, rows, cols, dtype] = request;
  const absl::StatusOr<std::vector<int64_t>> stored = files.Shape(name);
  if (!stored.ok()) return stored.status();
  const bool vector = n == 1 && stored->size() == 1;
  const absl::StatusOr<DType> exact = ExactDTypeOf(files, name);
  if (!exact.ok()) return exact.status();
  if (dtype != DType::kF32 && dtype != *exact) {
    return absl::InvalidArgumentError(absl::StrCat("tensor ", name, " does not fit ",
                                                   std::string(Name(dtype)), "; it needs ",
                                                   std::string(Name(*exact))));
  }
  if (cols.begin < 0 || cols.begin > cols.end || cols.end > k ||
      (vector && rows != Slice{.begin = 0, .end = 1})) {
    return absl::InvalidArgumentError(absl::StrCat("tensor ", name, " of shape [", n, ", ", k,
                                                   "] has no rows ", rows.begin, "..", rows.end,
                                                   " of columns ", cols.begin, "..", cols.end));
  }
  const std::vector<int64_t> shape = vector ? std::vector<int64_t>{k} : std::vector<int64_t>{n, k};
  absl::StatusOr<TensorRows> source =
      files.Rows(name, shape, vector ? cols : rows, {DType::kBF16, DType::kF32, DType::kF16});
  if (!source.ok()) return source.status();
  if (vector) {
    OwnedTensor copy = OwnedTensor::Host(dtype, {cols.size()});
    CopyElements(source->view, copy.view);
    return copy;
  }
  OwnedTensor copy;
  copy.buffer =
      Buffer::HostUntouched(static_cast<size_t>(rows.size() * cols.size()) * ByteSize(dtype));
  copy.view = copy.buffer.View(dtype, {rows.size(), cols.size()});
  const Tensor columns = source->view.Cols(cols.begin, cols.end);
  ForEachChunk(rows.size(), RowsPerChunk(cols.size()), [&](int64_t, Slice chunk) {
    for (int64_t row = chunk.begin; row < chunk.end; ++row) {
      CopyElements(columns.At(row), copy.view.At(row));
    }
  });
  files.Release(name);
  return copy;
}

absl::StatusOr<DType> ExactDTypeOf(const TensorFiles& files, const std::string& name) {
  const absl::StatusOr<DType> stored =
      files.CheckDType(name, {DType::kBF16, DType::kF32, DType::kF16});
  if (!stored.ok()) return stored.status();
  return *stored == DType::kBF16 ? DType::kBF16 : DType::kF32;
}

}  // namespace intermix
