// ReferenceBackend: every op of kernels/backend.h in plain scalar C++. It is the specification in
// code and the oracle of every other backend; it is not meant to be fast.
//
// GEMM sums in 64 bits and CHECKs that the result fits int32, so each run of it also tests the
// overflow certificate. Stateless: unlike other backends it may be called from several threads.
#pragma once

#include <memory>
#include <span>
#include <string_view>

#include "kernels/backend.h"
#include "kernels/core/host_memory.h"

namespace intermix {

class ReferenceBackend final : public Backend {
 public:
  std::string_view name() const override { return "reference"; }
  Device device() const override { return Device::kCpu; }
  Buffer Allocate(size_t bytes) override { return Buffer::Host(bytes); }
  int64_t free_bytes() const override { return AvailableHostBytes(); }
  Buffer AllocateHost(size_t bytes) override { return Buffer::Host(bytes); }
  void CopyToDevice(const void* host, Tensor tensor) override;
  void CopyToHost(const Tensor& tensor, void* host) override;
  void StartCopyToHost(const Tensor& tensor, void* host) override { CopyToHost(tensor, host); }
  void Synchronize() override {}

  // gemm.cc
  absl::StatusOr<std::unique_ptr<PackedWeight>> Prepack(
      std::span<const QuantizedWeight> parts) override;
  void Gemm(const Activations& x, const PackedWeight& w, Tensor y) override;
  void GroupedGemm(const Activations& x, std::span<const PackedWeight* const> weights,
                   const Tensor& row_offsets, Tensor y) override;
  absl::StatusOr<std::unique_ptr<PackedWeight>> PrepackGated(const QuantizedWeight& gate,
                                                             const QuantizedWeight& up) override;
  void GatedGemm(const Activations& x, std::span<const PackedWeight* const> weights,
                 const Tensor& row_offsets, Tensor hidden) override;

  // quantize_rows.cc
  void RowAbsMax(const Tensor& x, Tensor amax) override;
  void QuantizeRows(const Tensor& x, const Tensor& amax, const Activations& out) override;
  void RmsNorm(const Tensor& x, const Norm& norm, const NormedRows& out) override;
  void AddRmsNorm(const Delta& delta, Tensor residual, const Norm& norm,
                  const NormedRows& out) override;

  // rows.cc
  void EmbedRows(const Tensor& ids, const Tensor& table, Tensor out) override;
  void Zero(Tensor tensor) override;
  void GatherRows(const Tensor& src, const Tensor& index, Tensor dst) override;
  void MergeColumns(const Tensor& shards, Tensor out) override;

  // attention.cc
  void RopeAndStoreKv(Tensor q, Tensor k, const Tensor& v, const Tensor& rope,
                      const PagedRows& rows, const KvLayer& cache) override;
  void PagedAttention(const Tensor& q, const PagedRows& rows, const KvLayer& cache,
                      std::span<const int32_t> kv_head_of, float scale, Tensor out) override;

  // feed_forward.cc
  void Route(const Tensor& x, const Tensor& gate, Tensor experts, Tensor weights) override;
  void SortByExpert(const Tensor& experts, int32_t first_expert, const Activations& tokens,
                    const ExpertOrder& out) override;
  void AddRowCounts(const Tensor& row_offsets, Tensor totals) override;

  // top_k.cc
  void TopK(const Tensor& x, Tensor values, Tensor columns) override;
};

std::unique_ptr<Backend> MakeReferenceBackend();

}  // namespace intermix
