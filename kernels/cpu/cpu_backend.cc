#include "kernels/cpu/cpu_backend.h"

#include <array>
#include <utility>

#include "kernels/cpu/cpu_backend_class.h"

namespace intermix {
namespace cpu {

CpuBackend::CpuBackend(const CpuBackendOptions& options)
    : name_("cpu " + std::string(Name(options.isa))),
      kernels_(KernelsFor(options.isa)),
      pool_(options.threads),
      linear_(kernels_, pool_) {}

absl::StatusOr<std::unique_ptr<PackedWeight>> CpuBackend::Prepack(
    std::span<const QuantizedWeight> parts) {
  absl::StatusOr<std::unique_ptr<CpuPackedWeight>> packed = CpuPackedWeight::Pack(parts, pool_);
  if (!packed.ok()) return packed.status();
  return *std::move(packed);
}

void CpuBackend::Gemm(const Activations& x, const PackedWeight& w, Tensor y) {
  const PackedWeight* weight = &w;
  const std::array<int32_t, 2> offsets = {0, static_cast<int32_t>(x.tokens())};
  linear_.Run(x, {&weight, 1}, offsets, y);
}

void CpuBackend::GroupedGemm(const Activations& x, std::span<const PackedWeight* const> weights,
                             const Tensor& row_offsets, Tensor y) {
  const std::span<const int32_t> offsets(row_offsets.data<int32_t>(),
                                         static_cast<size_t>(row_offsets.rows()));
  linear_.Run(x.Rows(0, offsets.back()), weights, offsets, y.Rows(0, offsets.back()));
}

absl::StatusOr<std::unique_ptr<PackedWeight>> CpuBackend::PrepackGated(const QuantizedWeight& gate,
                                                                       const QuantizedWeight& up) {
  CHECK_EQ(gate.n, up.n);
  return Prepack(std::array<QuantizedWeight, 2>{gate, up});
}

void CpuBackend::GatedGemm(const Activations& x, std::span<const PackedWeight* const> weights,
                           const Tensor& row_offsets, Tensor hidden) {
  const std::array<int32_t, 2> all = {0, static_cast<int32_t>(x.tokens())};
  std::span<const int32_t> offsets = all;
  if (!row_offsets.empty()) {
    offsets = {row_offsets.data<int32_t>(), static_cast<size_t>(row_offsets.rows())};
  }
  linear_.RunGated(x.Rows(0, offsets.back()), weights, offsets, hidden.Rows(0, offsets.back()));
}

void CpuBackend::ReserveWorkerFloats(int64_t floats) {
  worker_stride_ = (floats + 15) / 16 * 16;  // whole cache lines
  const size_t bytes = static_cast<size_t>(worker_stride_ * pool_.num_threads()) * sizeof(float);
  if (worker_floats_.bytes() < bytes) worker_floats_ = Buffer::Host(bytes);
}

float* CpuBackend::WorkerFloats(int worker) const {
  return static_cast<float*>(worker_floats_.data()) + worker * worker_stride_;
}

}  // namespace cpu

std::unique_ptr<Backend> MakeCpuBackend(const CpuBackendOptions& options) {
  return std::make_unique<cpu::CpuBackend>(options);
}

}  // namespace intermix
