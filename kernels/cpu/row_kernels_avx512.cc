#include "kernels/cpu/lanes_avx512.h"
#include "kernels/cpu/row_kernels_inl.h"

namespace intermix::cpu {

RowKernels Avx512RowKernels() { return MakeRowKernels<LanesAvx512>(); }

}  // namespace intermix::cpu
