// The class behind MakeCudaBackend; private to kernels/cuda.
#pragma once

#include <memory>
#include <span>
#include <string_view>

#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/cuda_context.h"
#include "kernels/cuda/cuda_linear.h"
#include "kernels/cuda/pinned_staging.h"

namespace intermix::cuda {

class CudaBackend final : public Backend {
 public:
  explicit CudaBackend(std::unique_ptr<CudaContext> context);
  ~CudaBackend() override;

  const CudaContext& context() const { return *context_; }
  cudaStream_t stream() const { return context_->stream(); }

  std::string_view name() const override { return context_->name(); }
  Device device() const override { return Device::kCuda; }
  Buffer Allocate(size_t bytes) override { return context_->Allocate(bytes); }
  int64_t free_bytes() const override { return context_->free_bytes(); }
  Buffer AllocateHost(size_t bytes) override;
  void CopyToDevice(const void* host, Tensor tensor) override;
  void CopyToHost(const Tensor& tensor, void* host) override;
  void StartCopyToHost(const Tensor& tensor, void* host) override;
  void Synchronize() override;

  // cuda_ops.cc
  absl::StatusOr<std::unique_ptr<PackedWeight>> Prepack(
      std::span<const QuantizedWeight> parts) override;
  void Gemm(const Activations& x, const PackedWeight& w, Tensor y) override;
  void GroupedGemm(const Activations& x, std::span<const PackedWeight* const> weights,
                   const Tensor& row_offsets, Tensor y) override;
  absl::StatusOr<std::unique_ptr<PackedWeight>> PrepackGated(const QuantizedWeight& gate,
                                                             const QuantizedWeight& up) override;
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
  // Begins an op: its GPU becomes the thread's, and a later error is told to come after it.
  // Tensors must be the device's.
  template <typename... More>
  void Begin(const char* op, const Tensor& first, const More&... more) {
    routing_is_old_ = false;
    BeginBesideRouting(op, first, more...);
  }
  // The same of an op that writes nothing about where rows belong.
  template <typename... More>
  void BeginBesideRouting(const char* op, const Tensor& first, const More&... more) {
    context_->MakeCurrent();
    last_op_ = op;
    last_tensor_ = first;
    CheckOnDevice(first);
    (CheckOnDevice(more), ...);
  }
  // Ends an op that was a GEMM of x: a quantised one lets the next kernel start when all before it
  // is over (launch.h).
  void FollowGemm(const Activations& x, const Tensor& y) {
    if (x.quantized() && y.num_elements() > 0) routing_is_old_ = true;
  }
  void CheckOnDevice(const Tensor& tensor) const {
    CHECK(tensor.empty() || tensor.device() == Device::kCuda)
        << last_op_ << " was given " << tensor.ToString() << " of the host";
  }

  std::unique_ptr<CudaContext> context_;
  PinnedStaging staging_;
  CudaLinear linear_;
  Scratch attention_scratch_;
  Scratch top_k_scratch_;
  // No kernel that may still run writes where rows belong: row offsets, places, weights of slots.
  bool routing_is_old_ = false;
  const char* last_op_ = "start";
  Tensor last_tensor_;
};

}  // namespace intermix::cuda
