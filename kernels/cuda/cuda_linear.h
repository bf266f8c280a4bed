// Linear layers of CudaBackend: weights in device memory, and which kernels multiply by them.
// Engine thread only.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <span>
#include <unordered_map>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/core/buffer.h"
#include "kernels/cuda/cublaslt_gemm.h"
#include "kernels/cuda/cuda_context.h"
#include "kernels/cuda/gemm_types.h"
#include "kernels/cuda/pinned_staging.h"
#include "kernels/operands.h"
#include "kernels/quant/weight.h"

namespace intermix::cuda {

class CudaLinear {
 public:
  // `context` and `staging` outlive it.
  CudaLinear(const CudaContext& context, PinnedStaging& staging);

  // See Backend. INVALID_ARGUMENT also for what gemm_pack refuses; UNAVAILABLE: an unquantised
  // weight needs cuBLASLt, which cannot be opened.
  absl::StatusOr<std::unique_ptr<PackedWeight>> Prepack(std::span<const QuantizedWeight> parts);
  void Gemm(const Activations& x, const PackedWeight& w, Tensor y);
  //   offsets_are_old  no kernel that may still run writes row_offsets
  void GroupedGemm(const Activations& x, std::span<const PackedWeight* const> weights,
                   const Tensor& row_offsets, bool offsets_are_old, Tensor y);
  absl::StatusOr<std::unique_ptr<PackedWeight>> PrepackGated(const QuantizedWeight& gate,
                                                             const QuantizedWeight& up);
  void GatedGemm(const Activations& x, std::span<const PackedWeight* const> weights,
                 const Tensor& row_offsets, Tensor hidden);

 private:
  class Weight;

  // One launch of a grouped GEMM: the experts whose out features [begin, begin + n) have one mode.
  struct GroupLaunch {
    int64_t begin = 0;
    int64_t n = 0;
    GemmMode mode = GemmMode::kFolded4;
    bool gated = false;   // a gate and its up in turns
    size_t table_at = 0;  // of Group::tables: a GemmExpert for each expert
    GemmExpert first;     // of them

    bool Runs(const GroupLaunch& part) const {
      return begin == part.begin && n == part.n && mode == part.mode && gated == part.gated;
    }
  };
  // What the kernels must know of a list of experts, made when the list is first seen and kept:
  // recorded graphs read it.
  struct Group {
    std::vector<uint64_t> ids;          // of the weights
    std::vector<GroupLaunch> launches;  // of quantised weights
    Buffer tables;                      // of others: where each is
  };

  absl::StatusOr<std::unique_ptr<PackedWeight>> PrepackQuantized(
      std::span<const QuantizedWeight> parts);
  absl::Status AddPart(const QuantizedWeight& joined, bool gated, Weight& weight);
  absl::StatusOr<std::unique_ptr<PackedWeight>> PrepackUnquantized(
      std::span<const QuantizedWeight> parts);
  Buffer ToDevice(const void* host, size_t bytes);

  const Group& GroupOf(std::span<const PackedWeight* const> weights);
  Group MakeGroup(std::span<const PackedWeight* const> weights);
  Group MakeUnquantizedGroup(std::span<const PackedWeight* const> weights);
  // The launches of a list of experts that are, or are not, gated.
  //   output  what those write; kSiluMul only of the gated
  void LaunchGroup(const Group& group, bool gated, const Activations& x, const Tensor& row_offsets,
                   bool offsets_are_old, GemmOutput output, const Tensor& y);
  GemmProblem ProblemOf(const GroupLaunch& launch, const Group& group, const Activations& x) const;
  void UnquantizedGroupedGemm(const Activations& x, std::span<const PackedWeight* const> weights,
                              const Tensor& row_offsets, const Tensor& y);
  Tensor Round(const Activations& x);  // to bfloat16, in rounded_
  void UnquantizedGemm(const Activations& x, const Weight& w, const Tensor& y);

  const CudaContext& context_;
  PinnedStaging& staging_;
  uint64_t next_id_ = 0;
  Buffer workspace_;                        // of the quantised kernels
  Scratch rounded_;                         // rows as bfloat16
  Scratch gate_up_;                         // gates and ups, where a kernel of its own joins them
  std::unique_ptr<CublasLtGemm> cublaslt_;  // opened for the first unquantised weight
  std::unordered_map<uint64_t, std::deque<Group>> groups_;  // by the id of the first weight
};

}  // namespace intermix::cuda
