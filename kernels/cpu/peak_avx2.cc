// PeakLoops with AVX2 and FMA. Registers by name: gcc would keep an array of sums in memory.
// `sum` is an early clobber: sharing a register with the factors would make one long chain.
#include <immintrin.h>

#include "kernels/cpu/peak_loops.h"

namespace intermix::cpu {
namespace {

// One vpmaddubsw and one vpaddw for 32 products.
constexpr int kInt8Chains = 6;
constexpr int kFloatChains = 12;  // independent sums, more than latency times ports

int64_t Int8(int64_t loops) {
  const __m256i a = _mm256_set1_epi8(3);
  __m256i sum = a;
  asm volatile(
      "1:\n"
      "vpmaddubsw %2, %2, %%ymm2\n vpaddw %%ymm2, %%ymm8, %%ymm8\n"
      "vpmaddubsw %2, %2, %%ymm3\n vpaddw %%ymm3, %%ymm9, %%ymm9\n"
      "vpmaddubsw %2, %2, %%ymm4\n vpaddw %%ymm4, %%ymm10, %%ymm10\n"
      "vpmaddubsw %2, %2, %%ymm5\n vpaddw %%ymm5, %%ymm11, %%ymm11\n"
      "vpmaddubsw %2, %2, %%ymm6\n vpaddw %%ymm6, %%ymm12, %%ymm12\n"
      "vpmaddubsw %2, %2, %%ymm7\n vpaddw %%ymm7, %0, %0\n"
      "dec %1\n jnz 1b\n"
      : "+&x"(sum), "+r"(loops)
      : "x"(a)
      : "cc", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11",
        "xmm12");
  return _mm_cvtsi128_si32(_mm256_castsi256_si128(sum));
}

int64_t Floats(int64_t loops) {
  const __m256 a = _mm256_set1_ps(0.5f);
  __m256 sum = a;
  asm volatile(
      "1:\n"
      "vfmadd231ps %2, %2, %%ymm2\n vfmadd231ps %2, %2, %%ymm3\n vfmadd231ps %2, %2, %%ymm4\n"
      "vfmadd231ps %2, %2, %%ymm5\n vfmadd231ps %2, %2, %%ymm6\n vfmadd231ps %2, %2, %%ymm7\n"
      "vfmadd231ps %2, %2, %%ymm8\n vfmadd231ps %2, %2, %%ymm9\n vfmadd231ps %2, %2, %%ymm10\n"
      "vfmadd231ps %2, %2, %%ymm11\n vfmadd231ps %2, %2, %%ymm12\n vfmadd231ps %2, %2, %0\n"
      "dec %1\n jnz 1b\n"
      : "+&x"(sum), "+r"(loops)
      : "x"(a)
      : "cc", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11",
        "xmm12");
  return static_cast<int64_t>(_mm_cvtss_f32(_mm256_castps256_ps128(sum)));
}

int64_t Read(const char* data, int64_t bytes) {
  __m256i sum[8] = {};
  for (int64_t i = 0; i < bytes; i += 256) {
    for (int j = 0; j < 8; ++j) {
      const char* at = data + i + 32 * j;
      if (j % 2 == 0) _mm_prefetch(at + 4096, _MM_HINT_T0);
      sum[j] = _mm256_xor_si256(sum[j], _mm256_load_si256(reinterpret_cast<const __m256i*>(at)));
    }
  }
  for (int j = 1; j < 8; ++j) sum[0] = _mm256_xor_si256(sum[0], sum[j]);
  return _mm256_extract_epi64(sum[0], 0);
}

}  // namespace

PeakLoops Avx2PeakLoops() {
  return {.int8 = &Int8,
          .int8_ops = 2.0 * 32 * kInt8Chains,
          .floats = &Floats,
          .float_ops = 2.0 * 8 * kFloatChains,
          .read = &Read};
}

}  // namespace intermix::cpu
