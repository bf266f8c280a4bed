// CpuPackedWeight: stacked weight parts in the layouts of quant_gemm.h (quantised) or as plain rows
// (unquantised). Made by CpuBackend::Prepack. Owns its memory; immutable, so thread-safe.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "kernels/core/thread_pool.h"
#include "kernels/cpu/quant_gemm.h"

namespace intermix::cpu {

class CpuPackedWeight final : public PackedWeight {
 public:
  struct Part {
    int64_t begin = 0;       // its first out feature in the stack
    int64_t n = 0;           // its out features
    int64_t group_size = 0;  // before padding; 0 for an unquantised part
    QuantPart quant;         // views into `memory`
    Tensor rows;             // unquantised: [n, K] float32 or bfloat16, a view into `memory`
    Buffer memory;
  };

  // INVALID_ARGUMENT: no parts, different K, quantised on unquantised, a group too long to sum or
  // (4 bits) of odd length.
  static absl::StatusOr<std::unique_ptr<CpuPackedWeight>> Pack(
      std::span<const QuantizedWeight> parts, ThreadPool& pool);

  const std::vector<Part>& parts() const { return parts_; }
  int64_t bytes() const override;

 private:
  CpuPackedWeight(int64_t n, int64_t k, bool quantized) : PackedWeight(n, k, quantized) {}

  std::vector<Part> parts_;
};

}  // namespace intermix::cpu
