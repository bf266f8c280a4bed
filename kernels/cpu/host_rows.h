// HostRows: float rows in host memory, whatever device steps the model; what rank 0 does with rows
// of logits. The instruction set is chosen once; every one gives the same bits. Thread-safe.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/cpu/isa.h"

namespace intermix {

class HostRows {
 public:
  // The instruction set that INTERMIX_ISA names, or the fastest one.
  HostRows();

  // out[i] = LaneExp((x[i] - max) / temperature)
  //   x, out  [n] float32
  void Weights(std::span<const float> x, float max, float temperature, float* out) const {
    rows_.weights(x.data(), static_cast<int64_t>(x.size()), max, temperature, out);
  }

  // The first i >= begin for which x[i] is more than `bound` or a NaN; n where there is none.
  //   x  [n] float32
  int64_t NextAbove(std::span<const float> x, int64_t begin, float bound) const {
    return rows_.next_above(x.data(), begin, static_cast<int64_t>(x.size()), bound);
  }

 private:
  cpu::RowKernels rows_;
};

}  // namespace intermix
