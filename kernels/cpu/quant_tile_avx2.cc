// Quantised GEMM with AVX2, few rows. vpmaddubsw adds pairs of products to int16 and would saturate
// on bytes, so only nibbles (0 .. 15) meet it: |2 * 15 * 127| = 3810, and 8 such pairs still fit
// int16. Codes of 8 bits are split into their two nibbles, 16 * high + low, which is exact.
#include "kernels/cpu/quant_avx2_inl.h"

namespace intermix::cpu {
namespace avx2 {
namespace {

constexpr int kRows = 3;  // tokens whose accumulators fit the 16 registers

// ---- Packing ----

int32_t SumBytes(const int8_t* x, int64_t n) {
  const __m256i ones = _mm256_set1_epi8(1);
  __m256i sum = _mm256_setzero_si256();
  int64_t i = 0;
  for (; i + 32 <= n; i += 32) {
    const __m256i v = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x + i));
    sum = _mm256_add_epi32(sum,
                           _mm256_madd_epi16(_mm256_maddubs_epi16(ones, v), _mm256_set1_epi16(1)));
  }
  alignas(32) int32_t lanes[8];
  _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), sum);
  int32_t total = 0;
  for (int32_t lane : lanes) total += lane;
  for (; i < n; ++i) total += x[i];
  return total;
}

void PackRows(const PackRowsArgs& a) {
  for (int r = 0; r < a.rows; ++r) {
    int32_t* sums = a.sums + r * (a.num_groups + 1);
    int32_t total = 0;
    for (int64_t j = 0; j < a.num_groups; ++j) {
      const int8_t* x = a.x + r * a.x_stride + j * a.group_size;
      int8_t* out = a.tile + (j * a.group_quads * a.rows + r) * 4;
      for (int64_t q = 0; q < a.group_quads; ++q, out += 4 * a.rows) {
        const int64_t rest = a.group_size - 4 * q;
        int32_t word = 0;
        if (rest >= 4) {
          std::memcpy(&word, x + 4 * q, 4);
        } else if (rest > 0) {
          std::memcpy(&word, x + 4 * q, static_cast<uint64_t>(rest));
        }
        std::memcpy(out, &word, 4);
      }
      sums[j] = SumBytes(x, a.group_size);
      total += sums[j];
    }
    sums[a.num_groups] = total;
  }
}

// ---- One group ----

// Adds the four-product sums of `quads` (at most kFlushQuads, even) to acc. Always inlined, so that
// `acc` can live in registers.
//   x  a tile row's words, `stride` bytes from quad to quad
template <int R>
[[gnu::always_inline]] inline void AddNibbles(const uint8_t* w, const int8_t* x, int64_t stride,
                                              int64_t quads, Block16 (&acc)[R]) {
  const __m256i mask = _mm256_set1_epi8(0x0F);
  const __m256i ones = _mm256_set1_epi16(1);
  Block16 pairs[R];
  Unroll<R>([&](auto r) { pairs[r].half[0] = pairs[r].half[1] = _mm256_setzero_si256(); });
  for (int64_t q = 0; q < quads; q += 2, w += 64, x += 2 * stride) {
    Unroll<2>([&](auto h) {
      const __m256i codes = LoadBytes(w + 32 * h);
      const __m256i lo = _mm256_and_si256(codes, mask);
      const __m256i hi = _mm256_and_si256(_mm256_srli_epi16(codes, 4), mask);
      Unroll<R>([&](auto r) {
        const __m256i a = _mm256_maddubs_epi16(lo, Broadcast(x + 4 * r));
        const __m256i b = _mm256_maddubs_epi16(hi, Broadcast(x + stride + 4 * r));
        pairs[r].half[h] = _mm256_add_epi16(pairs[r].half[h], _mm256_add_epi16(a, b));
      });
    });
  }
  Unroll<R>([&](auto r) {
    Unroll<2>([&](auto h) {
      acc[r].half[h] = _mm256_add_epi32(acc[r].half[h], _mm256_madd_epi16(pairs[r].half[h], ones));
    });
  });
}

template <int R>
[[gnu::always_inline]] inline void AddBytes(const uint8_t* w, const int8_t* x, int64_t stride,
                                            int64_t quads, Block16 (&acc)[R]) {
  const __m256i mask = _mm256_set1_epi8(0x0F);
  const __m256i ones = _mm256_set1_epi16(1);
  Unroll<2>([&](auto h) {
    __m256i low[R];
    __m256i high[R];
    Unroll<R>([&](auto r) { low[r] = high[r] = _mm256_setzero_si256(); });
    for (int64_t q = 0; q < quads; ++q) {
      const __m256i codes = LoadBytes(w + 64 * q + 32 * h);
      const __m256i lo = _mm256_and_si256(codes, mask);
      const __m256i hi = _mm256_and_si256(_mm256_srli_epi16(codes, 4), mask);
      Unroll<R>([&](auto r) {
        const __m256i word = Broadcast(x + q * stride + 4 * r);
        low[r] = _mm256_add_epi16(low[r], _mm256_maddubs_epi16(lo, word));
        high[r] = _mm256_add_epi16(high[r], _mm256_maddubs_epi16(hi, word));
      });
    }
    Unroll<R>([&](auto r) {
      const __m256i sum = _mm256_add_epi32(_mm256_madd_epi16(low[r], ones),
                                           _mm256_slli_epi32(_mm256_madd_epi16(high[r], ones), 4));
      acc[r].half[h] = _mm256_add_epi32(acc[r].half[h], sum);
    });
  });
}

template <int R, int kBits>
[[gnu::always_inline]] inline void GroupSums(const uint8_t* w, const int8_t* x, int64_t stride,
                                             int64_t quads, Block16 (&acc)[R]) {
  for (int64_t q = 0; q < quads; q += kFlushQuads) {
    const int64_t count = quads - q < kFlushQuads ? quads - q : kFlushQuads;
    if constexpr (kBits == 4) {
      AddNibbles<R>(w + q * 32, x + q * stride, stride, count, acc);
    } else {
      AddBytes<R>(w + q * 64, x + q * stride, stride, count, acc);
    }
  }
}

// ---- One tile ----

// R rows of a tile, from its row `first` on.
template <int R, int kBits, bool kFloat>
void RunRows(const QuantPart& part, const QuantRows& rows, int64_t tile, int64_t first,
             int64_t block, const QuantOutput& out) {
  const int64_t begin = rows.TileBegin(tile);
  const int64_t stride = 4 * (rows.TileBegin(tile + 1) - begin);
  const int64_t row = begin + first;
  const int8_t* x = rows.tiles + begin * part.quads() * 4 + first * 4;
  const int32_t* x_sums = rows.sums + row * (part.num_groups + 1);
  const uint8_t* w = part.codes + block * part.block_bytes();
  Block16 totals[R];
  Unroll<R>([&](auto r) { totals[r].half[0] = totals[r].half[1] = _mm256_setzero_si256(); });
  for (int64_t j = 0; j < part.num_groups; ++j) {
    Block16 sums[R];
    Unroll<R>([&](auto r) {
      const int32_t x_sum = x_sums[r * (part.num_groups + 1) + j];
      sums[r].half[0] = sums[r].half[1] = _mm256_set1_epi32(-part.bias() * x_sum);
    });
    GroupSums<R, kBits>(w, x, stride, part.group_quads, sums);
    Unroll<R>([&](auto r) { AddScaled<kFloat>(part, block, j, sums[r], totals[r]); });
    w += part.group_quads * (kBits == 4 ? 32 : 64);
    x += part.group_quads * stride;
  }
  Unroll<R>([&](auto r) { StoreTotals<kFloat>(part, rows, row + r, block, totals[r], out); });
}

template <int kBits, bool kFloat>
void RunBlock(const QuantPart& part, const QuantRows& rows, int64_t tile, int64_t block,
              const QuantOutput& out) {
  constexpr decltype(&RunRows<1, kBits, kFloat>) kByRows[] = {
      &RunRows<1, kBits, kFloat>, &RunRows<2, kBits, kFloat>, &RunRows<3, kBits, kFloat>};
  static_assert(kRows == 3);
  const int64_t tile_rows = rows.TileBegin(tile + 1) - rows.TileBegin(tile);
  for (int64_t first = 0; first < tile_rows; first += kRows) {
    const int64_t count = tile_rows - first < kRows ? tile_rows - first : kRows;
    kByRows[count - 1](part, rows, tile, first, block, out);
  }
}

}  // namespace

void RunTile(const QuantPart& part, const QuantRows& rows, int64_t tile, int64_t block_begin,
             int64_t block_end, const QuantOutput& out) {
  for (int64_t block = block_begin; block < block_end; ++block) {
    if (part.float_scales != nullptr) {
      if (part.bits == 4) {
        RunBlock<4, true>(part, rows, tile, block, out);
      } else {
        RunBlock<8, true>(part, rows, tile, block, out);
      }
    } else if (part.bits == 4) {
      RunBlock<4, false>(part, rows, tile, block, out);
    } else {
      RunBlock<8, false>(part, rows, tile, block, out);
    }
  }
}

}  // namespace avx2

QuantGemmKernels Avx2QuantGemmKernels() {
  return {.stream_rows = 6,
          .panel_rows = avx2::kPanelTileRows,
          .streamed_rows = 24,
          .pack_rows = &avx2::PackRows,
          .run_tile = &avx2::RunTile,
          .run_panel = &avx2::RunPanel};
}

}  // namespace intermix::cpu
