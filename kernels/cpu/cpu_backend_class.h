// The class behind MakeCpuBackend; private to kernels/cpu.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/core/host_memory.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/linear.h"

namespace intermix::cpu {

class CpuBackend final : public Backend {
 public:
  explicit CpuBackend(const CpuBackendOptions& options);

  std::string_view name() const override { return name_; }
  Device device() const override { return Device::kCpu; }
  Buffer Allocate(size_t bytes) override { return Buffer::Host(bytes); }
  int64_t free_bytes() const override { return AvailableHostBytes(); }
  Buffer AllocateHost(size_t bytes) override { return Buffer::Host(bytes); }
  void CopyToDevice(const void* host, Tensor tensor) override;
  void CopyToHost(const Tensor& tensor, void* host) override;
  void StartCopyToHost(const Tensor& tensor, void* host) override { CopyToHost(tensor, host); }
  void Synchronize() override {}

  absl::StatusOr<std::unique_ptr<PackedWeight>> Prepack(
      std::span<const QuantizedWeight> parts) override;
  void Gemm(const Activations& x, const PackedWeight& w, Tensor y) override;
  void GroupedGemm(const Activations& x, std::span<const PackedWeight* const> weights,
                   const Tensor& row_offsets, Tensor y) override;
  absl::StatusOr<std::unique_ptr<PackedWeight>> PrepackGated(const QuantizedWeight& gate,
                                                             const QuantizedWeight& up) override;
  void GatedGemm(const Activations& x, std::span<const PackedWeight* const> weights,
                 const Tensor& row_offsets, Tensor hidden) override;

  // cpu_rows.cc
  void RowAbsMax(const Tensor& x, Tensor amax) override;
  void QuantizeRows(const Tensor& x, const Tensor& amax, const Activations& out) override;
  void RmsNorm(const Tensor& x, const Norm& norm, const NormedRows& out) override;
  void AddRmsNorm(const Delta& delta, Tensor residual, const Norm& norm,
                  const NormedRows& out) override;
  void EmbedRows(const Tensor& ids, const Tensor& table, Tensor out) override;
  void Zero(Tensor tensor) override;
  void GatherRows(const Tensor& src, const Tensor& index, Tensor dst) override;
  void MergeColumns(const Tensor& shards, Tensor out) override;

  // cpu_attention.cc
  void RopeAndStoreKv(Tensor q, Tensor k, const Tensor& v, const Tensor& rope,
                      const PagedRows& rows, const KvLayer& cache) override;
  void PagedAttention(const Tensor& q, const PagedRows& rows, const KvLayer& cache,
                      std::span<const int32_t> kv_head_of, float scale, Tensor out) override;

  // cpu_feed_forward.cc
  void Route(const Tensor& x, const Tensor& gate, Tensor experts, Tensor weights) override;
  void SortByExpert(const Tensor& experts, int32_t first_expert, const Activations& tokens,
                    const ExpertOrder& out) override;
  void AddRowCounts(const Tensor& row_offsets, Tensor totals) override;

  // cpu_top_k.cc
  void TopK(const Tensor& x, Tensor values, Tensor columns) override;

 private:
  // Consecutive heads that read the same K/V head.
  struct HeadRun {
    int32_t first = 0;
    int32_t count = 0;
    int32_t kv_head = 0;
  };
  // Consecutive rows of one sequence that read K and V together.
  struct RowTile {
    int64_t first = 0;
    int64_t count = 0;
  };

  // Calls body(row, worker) for every row, spread over the threads if `row_elements` makes it worth
  // it.
  template <typename F>
  void ForRows(int64_t rows, int64_t row_elements, const F& body) {
    constexpr int64_t kChunkElements = 8192;
    const auto chunk = [&](int64_t begin, int64_t end, int worker) {
      for (int64_t row = begin; row < end; ++row) body(row, worker);
    };
    const int64_t grain = kChunkElements / (row_elements > 0 ? row_elements : 1);
    pool_.ParallelFor(rows, grain > 0 ? grain : 1, std::ref(chunk));
  }

  // `floats` of scratch for each worker; returns the stride between them.
  void ReserveWorkerFloats(int64_t floats);
  float* WorkerFloats(int worker) const;

  float AbsMax(const Tensor& x, int64_t row) const;
  void QuantizeRow(const Tensor& x, int64_t row, float amax, const Activations& out);
  void NormRow(const Tensor& x, int64_t row, const Norm& norm, const NormedRows& out);
  void AddDelta(const Delta& delta, int64_t row, const Tensor& residual) const;
  void StoreInCache(float* x, int64_t slot, int64_t head, const Tensor& cache,
                    const Tensor& scales);
  void FindHeadRuns(std::span<const int32_t> kv_head_of);

  struct AttentionCall;
  struct Partial;
  int64_t MostHeads() const;  // of a run
  void FindRowTiles(const AttentionCall& call);
  static const void** FindRows(const Tensor& cache, const int32_t* table, int64_t begin,
                               int64_t end, int64_t kv_head, const void** out);
  static void GatherScales(const Tensor& scales, const int32_t* table, int64_t begin, int64_t end,
                           int64_t kv_head, float* out);
  void AttendSplitOf(const AttentionCall& call, const RowTile& rows, const HeadRun& run,
                     int64_t split, int64_t next_end, float* scores, const Partial& result) const;
  void AttendTile(const AttentionCall& call, const RowTile& rows, const HeadRun& run, int worker);
  void AttendBySplits(const AttentionCall& call, int64_t max_splits);
  // The first `heads` of each.
  void MergeInto(const AttentionCall& call, int64_t heads, const Partial& next,
                 const Partial& total) const;
  void WriteRow(const AttentionCall& call, int64_t row, const HeadRun& run,
                const Partial& total) const;

  const std::string name_;
  const Kernels kernels_;
  ThreadPool pool_;
  Linear linear_;

  std::vector<HeadRun> head_runs_;
  std::vector<RowTile> row_tiles_;
  Buffer worker_floats_;
  int64_t worker_stride_ = 0;
  Buffer partials_;
};

}  // namespace intermix::cpu
