// CpuBackend: ops that norm, quantise, move or add whole rows.
#include <cstring>
#include <limits>

#include "kernels/cpu/cpu_backend_class.h"

namespace intermix::cpu {
namespace {

constexpr float kSmallestAmax = 0x1p-100f;  // below it a row counts as zero
constexpr int64_t kMaxSlots = 64;

const uint16_t* Bf16Row(const Tensor& t, int64_t row) { return &t.row<BFloat16>(row)->bits; }

// The address of row `i`, whatever the dtype.
char* RowBytes(const Tensor& t, int64_t i) {
  return static_cast<char*>(t.raw()) + i * t.stride(0) * static_cast<int64_t>(ByteSize(t.dtype()));
}

void CheckNorm(const Tensor& x, const Norm& norm, const NormedRows& out) {
  CHECK_EQ(norm.weight.cols(), x.cols());
  CHECK_EQ(out.values.cols(), x.cols());
  CHECK_EQ(out.values.rows(), x.rows());
}

void CheckDelta(const Delta& delta, const Tensor& residual) {
  CHECK_EQ(delta.rows.cols(), residual.cols());
  if (delta.weights.empty()) {
    CHECK_EQ(delta.rows.rows(), residual.rows());
    return;
  }
  const int64_t top_k = delta.weights.cols();
  CHECK_EQ(delta.weights.rows(), residual.rows());
  CHECK(delta.row_of.empty() || delta.row_of.cols() == top_k) << delta.row_of.ToString();
  CHECK(top_k > 0 && top_k <= kMaxSlots) << "top_k " << top_k;
}

}  // namespace

void CpuBackend::RowAbsMax(const Tensor& x, Tensor amax) {
  CHECK_EQ(amax.rows(), x.rows());
  float* out = amax.data<float>();
  ForRows(x.rows(), x.cols(), [&](int64_t m, int) { out[m] = AbsMax(x, m); });
}

float CpuBackend::AbsMax(const Tensor& x, int64_t row) const {
  return x.dtype() == DType::kBF16 ? kernels_.rows.abs_max_bf16(Bf16Row(x, row), x.cols())
                                   : kernels_.rows.abs_max_f32(x.row<float>(row), x.cols());
}

void CpuBackend::QuantizeRow(const Tensor& x, int64_t row, float amax, const Activations& out) {
  const int64_t n = x.cols();
  const bool bf16 = x.dtype() == DType::kBF16;
  if (!out.quantized()) {
    float* values = out.values.row<float>(row);
    if (bf16) {
      kernels_.rows.widen(Bf16Row(x, row), n, values);
    } else if (values != x.row<float>(row)) {
      std::memcpy(values, x.row<float>(row), static_cast<size_t>(n) * sizeof(float));
    }
    return;
  }
  int8_t* codes = out.values.row<int8_t>(row);
  float& scale = out.scales.data<float>()[row];
  const bool finite = amax <= std::numeric_limits<float>::max();
  if (!finite || amax < kSmallestAmax) {
    scale = finite ? 0.0f : std::numeric_limits<float>::quiet_NaN();
    std::memset(codes, 0, static_cast<size_t>(n));
    return;
  }
  scale = amax / 127.0f;
  if (bf16) {
    kernels_.rows.quantize_bf16(Bf16Row(x, row), n, 127.0f / amax, codes);
  } else {
    kernels_.rows.quantize_f32(x.row<float>(row), n, 127.0f / amax, codes);
  }
}

void CpuBackend::QuantizeRows(const Tensor& x, const Tensor& amax, const Activations& out) {
  CHECK_EQ(out.tokens(), x.rows());
  CHECK_EQ(out.values.cols(), x.cols());
  ForRows(x.rows(), x.cols(), [&](int64_t m, int) {
    const float row_amax = !out.quantized() ? 0.0f
                           : amax.empty()   ? AbsMax(x, m)
                                            : amax.data<float>()[m];
    QuantizeRow(x, m, row_amax, out);
  });
}

void CpuBackend::NormRow(const Tensor& x, int64_t row, const Norm& norm, const NormedRows& out) {
  const int64_t n = x.cols();
  float* result = out.values.row<float>(row);
  kernels_.rows.rms_norm(x.row<float>(row), norm.weight.data<float>(), n, norm.eps, result);
  const float amax = out.activations.quantized() ? kernels_.rows.abs_max_f32(result, n) : 0.0f;
  QuantizeRow(out.values, row, amax, out.activations);
}

void CpuBackend::RmsNorm(const Tensor& x, const Norm& norm, const NormedRows& out) {
  CheckNorm(x, norm, out);
  ForRows(x.rows(), x.cols(), [&](int64_t m, int) { NormRow(x, m, norm, out); });
}

void CpuBackend::AddDelta(const Delta& delta, int64_t row, const Tensor& residual) const {
  const int64_t n = residual.cols();
  float* to = residual.row<float>(row);
  if (delta.weights.empty()) {
    kernels_.rows.add_bf16(Bf16Row(delta.rows, row), n, to);
    return;
  }
  const int64_t top_k = delta.weights.cols();
  const uint16_t* sources[kMaxSlots];
  for (int64_t slot = 0; slot < top_k; ++slot) {
    const int64_t from =
        delta.row_of.empty() ? row * top_k + slot : delta.row_of.row<int32_t>(row)[slot];
    CHECK(from >= 0 && from < delta.rows.rows()) << "row " << from << " of " << delta.rows.rows();
    sources[slot] = Bf16Row(delta.rows, from);
  }
  kernels_.rows.combine(sources, delta.weights.row<float>(row), static_cast<int>(top_k), n, to);
}

void CpuBackend::AddRmsNorm(const Delta& delta, Tensor residual, const Norm& norm,
                            const NormedRows& out) {
  CheckNorm(residual, norm, out);
  CheckDelta(delta, residual);
  const int64_t terms = delta.weights.empty() ? 1 : delta.weights.cols();
  ForRows(residual.rows(), (terms + 1) * residual.cols(), [&](int64_t m, int) {
    AddDelta(delta, m, residual);
    NormRow(residual, m, norm, out);
  });
}

void CpuBackend::EmbedRows(const Tensor& ids, const Tensor& table, Tensor out) {
  CHECK_EQ(ids.rows(), out.rows());
  CHECK_EQ(table.cols(), out.cols());
  const int32_t* id = ids.data<int32_t>();
  const size_t row_bytes = static_cast<size_t>(out.cols()) * sizeof(float);
  ForRows(ids.rows(), out.cols(), [&](int64_t m, int) {
    CHECK(id[m] >= 0 && id[m] < table.rows()) << "id " << id[m] << " of " << table.rows();
    if (table.dtype() == DType::kBF16) {
      kernels_.rows.widen(Bf16Row(table, id[m]), out.cols(), out.row<float>(m));
    } else {
      std::memcpy(out.row<float>(m), table.row<float>(id[m]), row_bytes);
    }
  });
}

void CpuBackend::CopyToDevice(const void* host, Tensor tensor) {
  CHECK(tensor.contiguous());
  if (tensor.bytes() > 0) std::memcpy(tensor.raw(), host, static_cast<size_t>(tensor.bytes()));
}

void CpuBackend::CopyToHost(const Tensor& tensor, void* host) {
  CHECK(tensor.contiguous());
  if (tensor.bytes() > 0) std::memcpy(host, tensor.raw(), static_cast<size_t>(tensor.bytes()));
}

void CpuBackend::Zero(Tensor tensor) {
  CHECK(tensor.contiguous());
  std::memset(tensor.raw(), 0, static_cast<size_t>(tensor.bytes()));
}

void CpuBackend::GatherRows(const Tensor& src, const Tensor& index, Tensor dst) {
  CHECK(src.dtype() == dst.dtype()) << src.ToString() << " into " << dst.ToString();
  CHECK_EQ(src.rank(), dst.rank());
  CHECK_EQ(index.rows(), dst.rows());
  const int64_t elements = src.rank() == 1 ? 1 : src.cols();
  CHECK_EQ(elements, dst.rank() == 1 ? 1 : dst.cols());
  const int32_t* from = index.data<int32_t>();
  const size_t row_bytes = static_cast<size_t>(elements) * ByteSize(src.dtype());
  ForRows(index.rows(), elements, [&](int64_t i, int) {
    CHECK(from[i] >= -1 && from[i] < src.rows()) << "row " << from[i] << " of " << src.rows();
    if (from[i] < 0) {
      std::memset(RowBytes(dst, i), 0, row_bytes);
    } else {
      std::memcpy(RowBytes(dst, i), RowBytes(src, from[i]), row_bytes);
    }
  });
}

void CpuBackend::MergeColumns(const Tensor& shards, Tensor out) {
  CHECK_EQ(shards.rank(), 3);
  CHECK(shards.dtype() == out.dtype()) << shards.ToString() << " into " << out.ToString();
  CHECK_EQ(out.cols(), shards.shape(0) * shards.cols());
  CHECK_EQ(out.rows(), shards.shape(1));
  const size_t shard_bytes = static_cast<size_t>(shards.cols()) * ByteSize(shards.dtype());
  const int64_t num_shards = shards.shape(0);
  ForRows(out.rows(), out.cols(), [&](int64_t t, int) {
    for (int64_t s = 0; s < num_shards; ++s) {
      std::memcpy(RowBytes(out, t) + static_cast<size_t>(s) * shard_bytes,
                  RowBytes(shards.At(s), t), shard_bytes);
    }
  });
}

}  // namespace intermix::cpu
