// CpuBackend: every op of kernels/backend.h on the host's cores, with the fastest instructions that
// the processor has (AVX-512 VNNI, AVX2, or plain C++) and bit-identical to ReferenceBackend.
// Owns its threads and scratch memory. Called from one thread, like every Backend.
#pragma once

#include <memory>

#include "kernels/backend.h"
#include "kernels/core/thread_pool.h"
#include "kernels/cpu/isa.h"

namespace intermix {

struct CpuBackendOptions {
  ThreadPoolOptions threads;
  Isa isa = SupportedIsas().back();  // must be supported; see IsaFromEnvironment
};

std::unique_ptr<Backend> MakeCpuBackend(const CpuBackendOptions& options);

}  // namespace intermix
