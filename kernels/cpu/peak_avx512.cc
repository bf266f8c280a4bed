// PeakLoops with AVX-512 VNNI. Registers by name: gcc would keep an array of sums in memory.
// `sum` is an early clobber: sharing a register with the factors would make one long chain.
#include <immintrin.h>

#include "kernels/cpu/peak_loops.h"

namespace intermix::cpu {
namespace {

constexpr int kChains = 12;  // independent sums, more than latency times ports

int64_t Int8(int64_t loops) {
  const __m512i a = _mm512_set1_epi8(3);
  __m512i sum = a;
  asm volatile(
      "1:\n"
      "vpdpbusd %2, %2, %%zmm2\n vpdpbusd %2, %2, %%zmm3\n vpdpbusd %2, %2, %%zmm4\n"
      "vpdpbusd %2, %2, %%zmm5\n vpdpbusd %2, %2, %%zmm6\n vpdpbusd %2, %2, %%zmm7\n"
      "vpdpbusd %2, %2, %%zmm8\n vpdpbusd %2, %2, %%zmm9\n vpdpbusd %2, %2, %%zmm10\n"
      "vpdpbusd %2, %2, %%zmm11\n vpdpbusd %2, %2, %%zmm12\n vpdpbusd %2, %2, %0\n"
      "dec %1\n jnz 1b\n"
      : "+&v"(sum), "+r"(loops)
      : "v"(a)
      : "cc", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11",
        "xmm12");
  return _mm_cvtsi128_si32(_mm512_castsi512_si128(sum));
}

int64_t Floats(int64_t loops) {
  const __m512 a = _mm512_set1_ps(0.5f);
  __m512 sum = a;
  asm volatile(
      "1:\n"
      "vfmadd231ps %2, %2, %%zmm2\n vfmadd231ps %2, %2, %%zmm3\n vfmadd231ps %2, %2, %%zmm4\n"
      "vfmadd231ps %2, %2, %%zmm5\n vfmadd231ps %2, %2, %%zmm6\n vfmadd231ps %2, %2, %%zmm7\n"
      "vfmadd231ps %2, %2, %%zmm8\n vfmadd231ps %2, %2, %%zmm9\n vfmadd231ps %2, %2, %%zmm10\n"
      "vfmadd231ps %2, %2, %%zmm11\n vfmadd231ps %2, %2, %%zmm12\n vfmadd231ps %2, %2, %0\n"
      "dec %1\n jnz 1b\n"
      : "+&v"(sum), "+r"(loops)
      : "v"(a)
      : "cc", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11",
        "xmm12");
  return static_cast<int64_t>(_mm_cvtss_f32(_mm512_castps512_ps128(sum)));
}

int64_t Read(const char* data, int64_t bytes) {
  __m512i sum[4] = {};
  for (int64_t i = 0; i < bytes; i += 256) {
    for (int j = 0; j < 4; ++j) {
      const char* at = data + i + 64 * j;
      _mm_prefetch(at + 4096, _MM_HINT_T0);
      sum[j] = _mm512_xor_si512(sum[j], _mm512_load_si512(at));
    }
  }
  const __m512i all =
      _mm512_xor_si512(_mm512_xor_si512(sum[0], sum[1]), _mm512_xor_si512(sum[2], sum[3]));
  return _mm512_reduce_add_epi64(all);
}

}  // namespace

PeakLoops Avx512PeakLoops() {
  return {.int8 = &Int8,
          .int8_ops = 2.0 * 64 * kChains,
          .floats = &Floats,
          .float_ops = 2.0 * 16 * kChains,
          .read = &Read};
}

}  // namespace intermix::cpu
