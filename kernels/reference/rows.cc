// Ops that move or add whole rows.
#include <cstring>

#include "kernels/reference/reference_backend.h"

namespace intermix {
namespace {

// The address of row `i`, whatever the dtype.
char* RowBytes(const Tensor& t, int64_t i) {
  return static_cast<char*>(t.raw()) + i * t.stride(0) * static_cast<int64_t>(ByteSize(t.dtype()));
}

}  // namespace

void ReferenceBackend::CopyToDevice(const void* host, Tensor tensor) {
  CHECK(tensor.contiguous());
  if (tensor.bytes() > 0) std::memcpy(tensor.raw(), host, static_cast<size_t>(tensor.bytes()));
}

void ReferenceBackend::CopyToHost(const Tensor& tensor, void* host) {
  CHECK(tensor.contiguous());
  if (tensor.bytes() > 0) std::memcpy(host, tensor.raw(), static_cast<size_t>(tensor.bytes()));
}

void ReferenceBackend::EmbedRows(const Tensor& ids, const Tensor& table, Tensor out) {
  CHECK_EQ(ids.rows(), out.rows());
  CHECK_EQ(table.cols(), out.cols());
  for (int64_t m = 0; m < ids.rows(); ++m) {
    const int32_t id = ids.data<int32_t>()[m];
    CHECK(id >= 0 && id < table.rows()) << "id " << id << " of " << table.rows();
    float* to = out.row<float>(m);
    for (int64_t k = 0; k < out.cols(); ++k) {
      to[k] = table.dtype() == DType::kBF16 ? static_cast<float>(table.row<BFloat16>(id)[k])
                                            : table.row<float>(id)[k];
    }
  }
}

void ReferenceBackend::Zero(Tensor tensor) {
  CHECK(tensor.contiguous());
  std::memset(tensor.raw(), 0, static_cast<size_t>(tensor.bytes()));
}

void ReferenceBackend::GatherRows(const Tensor& src, const Tensor& index, Tensor dst) {
  CHECK(src.dtype() == dst.dtype()) << src.ToString() << " into " << dst.ToString();
  CHECK_EQ(src.rank(), dst.rank());
  CHECK_EQ(index.rows(), dst.rows());
  const int64_t elements = src.rank() == 1 ? 1 : src.cols();
  CHECK_EQ(elements, dst.rank() == 1 ? 1 : dst.cols());
  const size_t row_bytes = static_cast<size_t>(elements) * ByteSize(src.dtype());
  for (int64_t i = 0; i < index.rows(); ++i) {
    const int32_t from = index.data<int32_t>()[i];
    CHECK(from >= -1 && from < src.rows()) << "row " << from << " of " << src.rows();
    if (from < 0) {
      std::memset(RowBytes(dst, i), 0, row_bytes);
    } else {
      std::memcpy(RowBytes(dst, i), RowBytes(src, from), row_bytes);
    }
  }
}

void ReferenceBackend::MergeColumns(const Tensor& shards, Tensor out) {
  CHECK_EQ(shards.rank(), 3);
  CHECK(shards.dtype() == out.dtype()) << shards.ToString() << " into " << out.ToString();
  CHECK_EQ(out.cols(), shards.shape(0) * shards.cols());
  CHECK_EQ(out.rows(), shards.shape(1));
  const size_t shard_bytes = static_cast<size_t>(shards.cols()) * ByteSize(shards.dtype());
  for (int64_t s = 0; s < shards.shape(0); ++s) {
    const Tensor shard = shards.At(s);
    for (int64_t t = 0; t < out.rows(); ++t) {
      std::memcpy(RowBytes(out, t) + static_cast<size_t>(s) * shard_bytes, RowBytes(shard, t),
                  shard_bytes);
    }
  }
}

}  // namespace intermix
