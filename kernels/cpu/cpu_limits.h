// The limits of this machine's cores (kernels/limits.h): register-only loops of the instruction
// that does most work, and a read of memory larger than any cache.
#pragma once

#include <vector>

#include "kernels/core/thread_pool.h"
#include "kernels/cpu/isa.h"
#include "kernels/limits.h"

namespace intermix {

// Int8 and float limits of `isa`, which must be supported, and read bandwidth, on threads of their
// own. Each run is about ten milliseconds of each thread.
//   int8   vpdpbusd (AVX-512 VNNI); vpmaddubsw and vpaddw (AVX2): the cheapest exact loop on
//   nibbles float  fused multiply-add
std::vector<Limit> CpuLimits(const ThreadPoolOptions& threads, Isa isa);

}  // namespace intermix
