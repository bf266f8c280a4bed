#include "kernels/cpu/lanes_scalar.h"
#include "kernels/cpu/row_kernels_inl.h"

namespace intermix::cpu {

RowKernels ScalarRowKernels() { return MakeRowKernels<LanesScalar>(); }

}  // namespace intermix::cpu
