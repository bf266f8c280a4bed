// CudaBackend: each op begins, checks what its launcher does not, and starts its kernels.
#include <algorithm>

#include "kernels/cuda/attention.h"
#include "kernels/cuda/cuda_backend_class.h"
#include "kernels/cuda/feed_forward.h"
#include "kernels/cuda/norm.h"
#include "kernels/cuda/quantize_rows.h"
#include "kernels/cuda/rope.h"
#include "kernels/cuda/routing.h"
#include "kernels/cuda/rows.h"
#include "kernels/cuda/top_k.h"

namespace intermix::cuda {
namespace {

// Enough for 64 sequences of 64k positions with 32 heads of 128; taken only as it is needed.
constexpr int64_t kMaxAttentionScratchFloats = int64_t{65} << 20;

}  // namespace

absl::StatusOr<std::unique_ptr<PackedWeight>> CudaBackend::Prepack(
    std::span<const QuantizedWeight> parts) {
  context_->MakeCurrent();
  return linear_.Prepack(parts);
}

void CudaBackend::Gemm(const Activations& x, const PackedWeight& w, Tensor y) {
  Begin("Gemm", x.values, x.scales, y);
  linear_.Gemm(x, w, y);
  FollowGemm(x, y);
}

void CudaBackend::GroupedGemm(const Activations& x, std::span<const PackedWeight* const> weights,
                              const Tensor& row_offsets, Tensor y) {
  BeginBesideRouting("GroupedGemm", x.values, x.scales, row_offsets, y);
  linear_.GroupedGemm(x, weights, row_offsets, routing_is_old_, y);
  FollowGemm(x, y);
}

absl::StatusOr<std::unique_ptr<PackedWeight>> CudaBackend::PrepackGated(const QuantizedWeight& gate,
                                                                        const QuantizedWeight& up) {
  context_->MakeCurrent();
  return linear_.PrepackGated(gate, up);
}

void CudaBackend::GatedGemm(const Activations& x, std::span<const PackedWeight* const> weights,
                            const Tensor& row_offsets, Tensor hidden) {
  Begin("GatedGemm", x.values, x.scales, row_offsets, hidden);
  linear_.GatedGemm(x, weights, row_offsets, hidden);
  FollowGemm(x, hidden);
}

void CudaBackend::RowAbsMax(const Tensor& x, Tensor amax) {
  Begin("RowAbsMax", x, amax);
  cuda::RowAbsMax({.x = x, .amax = amax}, stream());
}

void CudaBackend::QuantizeRows(const Tensor& x, const Tensor& amax, const Activations& out) {
  BeginBesideRouting("QuantizeRows", x, amax, out.values, out.scales);
  cuda::QuantizeRows({.x = x, .amax = amax, .out = out}, stream());
}

void CudaBackend::RmsNorm(const Tensor& x, const Norm& norm, const NormedRows& out) {
  Begin("RmsNorm", x, norm.weight, out.values, out.activations.values, out.activations.scales);
  cuda::RmsNorm({.delta = {}, .residual = x, .norm = norm, .out = out}, stream());
}

void CudaBackend::AddRmsNorm(const Delta& delta, Tensor residual, const Norm& norm,
                             const NormedRows& out) {
  BeginBesideRouting("AddRmsNorm", residual, delta.rows, delta.row_of, delta.weights, norm.weight,
                     out.values, out.activations.values, out.activations.scales);
  cuda::RmsNorm({.delta = delta,
                 .residual = residual,
                 .norm = norm,
                 .out = out,
                 .slots_are_old = routing_is_old_},
                stream());
}

void CudaBackend::EmbedRows(const Tensor& ids, const Tensor& table, Tensor out) {
  Begin("EmbedRows", ids, table, out);
  cuda::EmbedRows({.ids = ids, .table = table, .out = out}, stream());
}

void CudaBackend::Zero(Tensor tensor) {
  Begin("Zero", tensor);
  cuda::Zero(tensor, stream());
}

void CudaBackend::GatherRows(const Tensor& src, const Tensor& index, Tensor dst) {
  Begin("GatherRows", src, index, dst);
  cuda::GatherRows({.src = src, .index = index, .dst = dst}, stream());
}

void CudaBackend::MergeColumns(const Tensor& shards, Tensor out) {
  Begin("MergeColumns", shards, out);
  cuda::MergeColumns({.shards = shards, .out = out}, stream());
}

void CudaBackend::RopeAndStoreKv(Tensor q, Tensor k, const Tensor& v, const Tensor& rope,
                                 const PagedRows& rows, const KvLayer& cache) {
  Begin("RopeAndStoreKv", q, k, v, rope, rows.positions, rows.slots, cache.k, cache.v);
  cuda::RopeAndStoreKv({.q = q, .k = k, .v = v, .rope = rope, .rows = rows, .cache = cache},
                       stream());
}

void CudaBackend::PagedAttention(const Tensor& q, const PagedRows& rows, const KvLayer& cache,
                                 std::span<const int32_t> kv_head_of, float scale, Tensor out) {
  Begin("PagedAttention", q, rows.positions, rows.query_starts, rows.block_tables, cache.k, cache.v,
        out);
  cuda::PagedAttentionArgs args = {.q = q,
                                   .rows = rows,
                                   .cache = cache,
                                   .kv_head_of = kv_head_of,
                                   .scale = scale,
                                   .out = out,
                                   .scratch = Tensor(),
                                   .num_multiprocessors = context_->gemm_device().sm_count,
                                   .wgmma = context_->gemm_device().wgmma};
  const int64_t floats = cuda::PagedAttentionScratch(args);
  if (floats > 0 && floats <= kMaxAttentionScratchFloats) {
    args.scratch = Tensor(attention_scratch_.Reserve(static_cast<size_t>(floats) * sizeof(float)),
                          DType::kF32, {floats}, Device::kCuda);
  }
  cuda::PagedAttention(args, stream());
}

void CudaBackend::Route(const Tensor& x, const Tensor& gate, Tensor experts, Tensor weights) {
  Begin("Route", x, gate, experts, weights);
  cuda::Route({.x = x,
               .gate = gate,
               .experts = experts,
               .weights = weights,
               .shared_bytes = context_->gemm_device().shared_bytes_per_block},
              stream());
}

void CudaBackend::SortByExpert(const Tensor& experts, int32_t first_expert,
                               const Activations& tokens, const ExpertOrder& out) {
  Begin("SortByExpert", experts, tokens.values, tokens.scales, out.token_of_row, out.row_of_slot,
        out.row_offsets, out.totals, out.rows.values, out.rows.scales);
  cuda::SortByExpert(
      {.experts = experts, .first_expert = first_expert, .tokens = tokens, .order = out}, stream());
}

void CudaBackend::AddRowCounts(const Tensor& row_offsets, Tensor totals) {
  Begin("AddRowCounts", row_offsets, totals);
  cuda::AddRowCounts({.row_offsets = row_offsets, .totals = totals}, stream());
}

void CudaBackend::TopK(const Tensor& x, Tensor values, Tensor columns) {
  Begin("TopK", x, values, columns);
  const int64_t keys = cuda::TopKScratch(x.rows(), x.cols(), values.cols());
  void* scratch = top_k_scratch_.Reserve(static_cast<size_t>(keys) * sizeof(uint64_t));
  cuda::TopK(
      {.x = x, .values = values, .columns = columns, .scratch = static_cast<uint64_t*>(scratch)},
      stream());
}

}  // namespace intermix::cuda
