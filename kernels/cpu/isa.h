// The instruction sets that CpuBackend has kernels for, and which of them this machine runs.
// isa_x86.cc asks CPUID; isa_portable.cc, on any other processor, knows scalar code only.
// Thread-safe.
#pragma once

#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/cpu/peak_loops.h"
#include "kernels/cpu/quant_gemm.h"
#include "kernels/cpu/row_kernels.h"

namespace intermix {

enum class Isa {
  kScalar,
  kAvx2,    // AVX2 and FMA
  kAvx512,  // AVX-512 F, BW, VL, DQ and VNNI
};

std::string_view Name(Isa isa);  // "scalar", "avx2", "avx512"

// Those that this machine supports, the fastest last; never empty.
std::vector<Isa> SupportedIsas();

// The fastest one, or the one that the environment variable INTERMIX_ISA names.
//   INVALID_ARGUMENT if it names none; FAILED_PRECONDITION if this machine lacks it.
absl::StatusOr<Isa> IsaFromEnvironment();

// Whether this processor and its operating system support `isa`.
bool IsSupported(Isa isa);

namespace cpu {

struct Kernels {
  RowKernels rows;
  QuantGemmKernels gemm;
  PeakLoops peak;
};

// `isa` must be supported.
Kernels KernelsFor(Isa isa);

}  // namespace cpu
}  // namespace intermix
