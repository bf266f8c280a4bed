// PeakLoops: what a core can do at best, as loops of the instruction that does most work, one table
// for each instruction set; CpuLimits times them. Pure functions; thread-safe.
#pragma once

#include <cstdint>

namespace intermix::cpu {

// Each returns something that depends on all of its work.
struct PeakLoops {
  int64_t (*int8)(int64_t loops) = nullptr;
  double int8_ops = 0.0;  // of one loop
  int64_t (*floats)(int64_t loops) = nullptr;
  double float_ops = 0.0;
  int64_t (*read)(const char* data, int64_t bytes) = nullptr;  // bytes a multiple of 512
};

PeakLoops ScalarPeakLoops();
PeakLoops Avx2PeakLoops();
PeakLoops Avx512PeakLoops();

}  // namespace intermix::cpu
