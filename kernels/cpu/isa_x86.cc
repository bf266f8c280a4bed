#include "kernels/core/check.h"
#include "kernels/cpu/isa.h"

namespace intermix {

// The compiler's run-time library reads CPUID, and XGETBV for what the operating system saves.
bool IsSupported(Isa isa) {
  __builtin_cpu_init();
  switch (isa) {
    case Isa::kScalar:
      return true;
    case Isa::kAvx2:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    case Isa::kAvx512:
      return IsSupported(Isa::kAvx2) && __builtin_cpu_supports("avx512f") &&
             __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
             __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vnni");
  }
  return false;
}

cpu::Kernels cpu::KernelsFor(Isa isa) {
  CHECK(IsSupported(isa)) << "this processor does not support " << Name(isa);
  switch (isa) {
    case Isa::kAvx512:
      return {
          .rows = Avx512RowKernels(), .gemm = Avx512QuantGemmKernels(), .peak = Avx512PeakLoops()};
    case Isa::kAvx2:
      return {.rows = Avx2RowKernels(), .gemm = Avx2QuantGemmKernels(), .peak = Avx2PeakLoops()};
    case Isa::kScalar:
      break;
  }
  return {.rows = ScalarRowKernels(), .gemm = ScalarQuantGemmKernels(), .peak = ScalarPeakLoops()};
}

}  // namespace intermix
