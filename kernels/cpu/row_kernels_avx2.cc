#include "kernels/cpu/lanes_avx2.h"
#include "kernels/cpu/row_kernels_inl.h"

namespace intermix::cpu {

RowKernels Avx2RowKernels() { return MakeRowKernels<LanesAvx2>(); }

}  // namespace intermix::cpu
