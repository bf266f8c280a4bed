// What this machine can do at best, to measure kernels against in the same run. All rates are per
// second of CPU time (of all threads together), so that a busy machine disturbs them little.
// Each call takes about a tenth of a second on all threads of `pool`.
#pragma once

#include "kernels/core/thread_pool.h"

namespace intermix {

// Multiplications and additions of int8 (two for each product) per CPU second: register-only
// vpdpbusd where the processor has AVX-512 VNNI, else vpmaddubsw and vpmaddwd; 0 without AVX2.
double PeakInt8Ops(ThreadPool& pool);

// Bytes read per CPU second from memory larger than any cache.
double PeakReadBytes(ThreadPool& pool);

}  // namespace intermix
