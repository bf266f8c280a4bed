#include "tests/benchmark/machine_peak.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <ctime>
#include <functional>

#include "kernels/core/buffer.h"
#include "kernels/cpu/isa.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace intermix {
namespace {

constexpr int kRepeats = 5;  // the best one counts
constexpr int64_t kLoops = 4'000'000;
constexpr int kChains = 12;  // more than latency times ports

// CPU time of all threads of this process, in seconds.
double CpuSeconds() {
  timespec time;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

// The least CPU time of body(worker) run once on each thread.
double BestSeconds(ThreadPool& pool, const std::function<void(int64_t)>& body) {
  double best = 1e9;
  for (int i = 0; i < kRepeats; ++i) {
    const double start = CpuSeconds();
    pool.ParallelFor(pool.num_threads(), 1, [&](int64_t begin, int64_t, int) { body(begin); });
    best = std::min(best, CpuSeconds() - start);
  }
  return best;
}

#if defined(__x86_64__)
// Returns something that depends on every product, so that none is optimised away.
__attribute__((target("avx512f,avx512vnni"))) int Vnni() {
  const __m512i a = _mm512_set1_epi8(3);
  const __m512i b = _mm512_set1_epi8(5);
  __m512i sum = a;
  // kChains registers by name: gcc would keep an array in memory.
  asm volatile(
      "mov %3, %%rcx\n"
      "1:\n"
      "vpdpbusd %2, %1, %%zmm2\n vpdpbusd %2, %1, %%zmm3\n vpdpbusd %2, %1, %%zmm4\n"
      "vpdpbusd %2, %1, %%zmm5\n vpdpbusd %2, %1, %%zmm6\n vpdpbusd %2, %1, %%zmm7\n"
      "vpdpbusd %2, %1, %%zmm8\n vpdpbusd %2, %1, %%zmm9\n vpdpbusd %2, %1, %%zmm10\n"
      "vpdpbusd %2, %1, %%zmm11\n vpdpbusd %2, %1, %%zmm12\n vpdpbusd %2, %1, %0\n"
      "dec %%rcx\n jnz 1b\n"
      : "+v"(sum)
      : "v"(a), "v"(b), "r"(kLoops)
      : "rcx", "cc", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10",
        "xmm11", "xmm12");
  return _mm_cvtsi128_si32(_mm512_castsi512_si128(sum));
}

// One vpmaddubsw and one vpaddw per 32 products: the cheapest exact loop on nibbles.
__attribute__((target("avx2"))) int Maddubs() {
  constexpr int kWords = 12;
  __m256i acc[kWords];
  for (int i = 0; i < kWords; ++i) acc[i] = _mm256_set1_epi16(static_cast<int16_t>(i));
  __m256i a = _mm256_set1_epi8(3);
  const __m256i b = _mm256_set1_epi8(5);
  for (int64_t loop = 0; loop < kLoops; ++loop) {
    a = _mm256_add_epi8(a, b);  // changes, so that the products are not hoisted
#pragma GCC unroll 12
    for (int i = 0; i < kWords; ++i) {
      acc[i] = _mm256_add_epi16(acc[i], _mm256_maddubs_epi16(a, _mm256_xor_si256(b, acc[i])));
    }
  }
  __m256i sum = acc[0];
  for (int i = 1; i < kWords; ++i) sum = _mm256_add_epi16(sum, acc[i]);
  return _mm_cvtsi128_si32(_mm256_castsi256_si128(sum));
}

__attribute__((target("avx2"))) int64_t ReadAll(const char* data, int64_t bytes) {
  __m256i sum[8];
  for (__m256i& s : sum) s = _mm256_setzero_si256();
  for (int64_t i = 0; i < bytes; i += 256) {
    for (int j = 0; j < 8; ++j) {
      sum[j] = _mm256_xor_si256(
          sum[j], _mm256_load_si256(reinterpret_cast<const __m256i*>(data + i + 32 * j)));
    }
  }
  for (int j = 1; j < 8; ++j) sum[0] = _mm256_xor_si256(sum[0], sum[j]);
  return _mm256_extract_epi64(sum[0], 0);
}
#else
int64_t ReadAll(const char* data, int64_t bytes) {
  int64_t sum = 0;
  for (int64_t i = 0; i < bytes; i += 8) {
    int64_t word;
    std::memcpy(&word, data + i, 8);
    sum ^= word;
  }
  return sum;
}
#endif

volatile int64_t sink;

}  // namespace

double PeakInt8Ops([[maybe_unused]] ThreadPool& pool) {
#if defined(__x86_64__)
  if (IsSupported(Isa::kAvx512)) {
    const double seconds = BestSeconds(pool, [](int64_t) { sink = Vnni(); });
    return 2.0 * 64 * kChains * kLoops * pool.num_threads() / seconds;
  }
  if (IsSupported(Isa::kAvx2)) {
    const double seconds = BestSeconds(pool, [](int64_t) { sink = Maddubs(); });
    return 2.0 * 32 * 12 * kLoops * pool.num_threads() / seconds;
  }
#endif
  return 0.0;
}

double PeakReadBytes(ThreadPool& pool) {
  constexpr int64_t kBytes = int64_t{256} << 20;
  const Buffer memory = Buffer::Host(static_cast<size_t>(kBytes));
  const int64_t share = kBytes / pool.num_threads() / 4096 * 4096;
  const auto* data = static_cast<const char*>(memory.data());
  const double seconds =
      BestSeconds(pool, [&](int64_t worker) { sink = ReadAll(data + worker * share, share); });
  return static_cast<double>(share) * pool.num_threads() / seconds;
}

}  // namespace intermix
