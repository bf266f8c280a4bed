#include "kernels/cpu/isa.h"

namespace intermix {

bool IsSupported(Isa isa) { return isa == Isa::kScalar; }

cpu::Kernels cpu::KernelsFor(Isa) {
  return {.rows = ScalarRowKernels(), .gemm = ScalarQuantGemmKernels(), .peak = ScalarPeakLoops()};
}

}  // namespace intermix
