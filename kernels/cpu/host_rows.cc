#include "kernels/cpu/host_rows.h"

namespace intermix {

HostRows::HostRows()
    : rows_(cpu::KernelsFor(IsaFromEnvironment().value_or(SupportedIsas().back())).rows) {}

}  // namespace intermix
