// PeakLoops in plain C++: what a processor without known vector instructions does.
#include <cstring>

#include "kernels/cpu/peak_loops.h"

namespace intermix::cpu {
namespace {

constexpr int kChains = 8;  // independent, more than latency times ports

int64_t Int8(int64_t loops) {
  int32_t sums[kChains] = {};
  int32_t factor = 1;
  for (int64_t i = 0; i < loops; ++i) {
    asm volatile("" : "+r"(factor));  // nothing is computed beforehand
#pragma GCC unroll 8
    for (int32_t& sum : sums) sum += static_cast<int8_t>(factor) * static_cast<int8_t>(sum);
  }
  int64_t total = 0;
  for (const int32_t sum : sums) total += sum;
  return total;
}

int64_t Floats(int64_t loops) {
  float sums[kChains] = {};
  float factor = 0.5f;
  for (int64_t i = 0; i < loops; ++i) {
    factor = 1.5f - factor;
#pragma GCC unroll 8
    for (float& sum : sums) sum = sum * factor + 1.0f;
  }
  float total = 0.0f;
  for (const float sum : sums) total += sum;
  return static_cast<int64_t>(total);
}

int64_t Read(const char* data, int64_t bytes) {
  uint64_t sum[4] = {};
  for (int64_t i = 0; i < bytes; i += 32) {
    for (int j = 0; j < 4; ++j) {
      uint64_t word;
      std::memcpy(&word, data + i + 8 * j, 8);
      sum[j] ^= word;
    }
  }
  return static_cast<int64_t>(sum[0] ^ sum[1] ^ sum[2] ^ sum[3]);
}

}  // namespace

PeakLoops ScalarPeakLoops() {
  return {.int8 = &Int8,
          .int8_ops = 2.0 * kChains,
          .floats = &Floats,
          .float_ops = 2.0 * kChains,
          .read = &Read};
}

}  // namespace intermix::cpu
