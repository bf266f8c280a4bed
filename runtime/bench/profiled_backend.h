// ProfiledBackend: a backend that passes every op on to another one and keeps, for each kind of
// op, how long it took, how often it ran, and how much work it was. It waits for the device after
// every op, so the sum is longer than an undisturbed step.
// Like every Backend it is called from one thread.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>

#include "kernels/backend.h"
#include "runtime/bench/work.h"

namespace intermix {

struct OpProfile {
  int64_t calls = 0;
  double seconds = 0.0;
  Work work;  // of linear layers and attention only: nothing else is limited by memory in a step
};

class ProfiledBackend final : public Backend {
 public:
  // `inner` outlives it; `clock` tells seconds.
  ProfiledBackend(Backend& inner, std::function<double()> clock)
      : inner_(inner), clock_(std::move(clock)) {}

  using Ops = std::map<std::string, OpProfile, std::less<>>;
  const Ops& ops() const { return ops_; }
  void Clear() { ops_.clear(); }
  Work total_work() const;

  std::string_view name() const override { return inner_.name(); }
  Device device() const override { return inner_.device(); }
  Buffer Allocate(size_t bytes) override { return inner_.Allocate(bytes); }
  int64_t free_bytes() const override { return inner_.free_bytes(); }
  Buffer AllocateHost(size_t bytes) override { return inner_.AllocateHost(bytes); }
  void CopyToDevice(const void* host, Tensor tensor) override;
  void CopyToHost(const Tensor& tensor, void* host) override;
  void StartCopyToHost(const Tensor& tensor, void* host) override;
  void Synchronize() override { inner_.Synchronize(); }
  absl::StatusOr<std::unique_ptr<PackedWeight>> Prepack(
      std::span<const QuantizedWeight> parts) override {
    return inner_.Prepack(parts);
  }
  void Gemm(const Activations& x, const PackedWeight& w, Tensor y) override;
  void GroupedGemm(const Activations& x, std::span<const PackedWeight* const> weights,
                   const Tensor& row_offsets, Tensor y) override;
  absl::StatusOr<std::unique_ptr<PackedWeight>> PrepackGated(const QuantizedWeight& gate,
                                                             const QuantizedWeight& up) override {
    return inner_.PrepackGated(gate, up);
  }
  void GatedGemm(const Activations& x, std::span<const PackedWeight* const> weights,
                 const Tensor& row_offsets, Tensor hidden) override;
  void RowAbsMax(const Tensor& x, Tensor amax) override;
  void QuantizeRows(const Tensor& x, const Tensor& amax, const Activations& out) override;
  void RmsNorm(const Tensor& x, const Norm& norm, const NormedRows& out) override;
  void AddRmsNorm(const Delta& delta, Tensor residual, const Norm& norm,
                  const NormedRows& out) override;
  void EmbedRows(const Tensor& ids, const Tensor& table, Tensor out) override;
  void Zero(Tensor tensor) override;
  void GatherRows(const Tensor& src, const Tensor& index, Tensor dst) override;
  void MergeColumns(const Tensor& shards, Tensor out) override;
  void RopeAndStoreKv(Tensor q, Tensor k, const Tensor& v, const Tensor& rope,
                      const PagedRows& rows, const KvLayer& cache) override;
  void PagedAttention(const Tensor& q, const PagedRows& rows, const KvLayer& cache,
                      std::span<const int32_t> kv_head_of, float scale, Tensor out) override;
  void Route(const Tensor& x, const Tensor& gate, Tensor experts, Tensor weights) override;
  void SortByExpert(const Tensor& experts, int32_t first_expert, const Activations& tokens,
                    const ExpertOrder& out) override;
  void AddRowCounts(const Tensor& row_offsets, Tensor totals) override;
  void TopK(const Tensor& x, Tensor values, Tensor columns) override;

 private:
  OpProfile& Time(const char* name, const std::function<void()>& op);

  Backend& inner_;
  const std::function<double()> clock_;
  Ops ops_;
};

}  // namespace intermix
