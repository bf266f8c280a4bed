// Quantised GEMM with AVX-512 VNNI, few rows: vpdpbusd multiplies unsigned codes by signed
// activations and adds four products to an int32 lane, wrapping, never saturating. A lane is an out
// feature, so an activation word is broadcast and no lane is ever summed across.
#include "kernels/cpu/quant_avx512_inl.h"

namespace intermix::cpu {
namespace avx512 {
namespace {

// ---- Packing ----

int32_t SumBytes(const int8_t* x, int64_t n) {
  const __m512i ones = _mm512_set1_epi8(1);
  __m512i sum = _mm512_setzero_si512();
  int64_t i = 0;
  for (; i + 64 <= n; i += 64) sum = _mm512_dpbusd_epi32(sum, ones, _mm512_loadu_si512(x + i));
  if (i < n) {
    const __mmask64 mask = (uint64_t{1} << (n - i)) - 1;
    sum = _mm512_dpbusd_epi32(sum, ones, _mm512_maskz_loadu_epi8(mask, x + i));
  }
  return _mm512_reduce_add_epi32(sum);
}

// Copies one group of one row into its tile, a word every `rows` words, zero beyond the group.
void PackGroup(const int8_t* x, int64_t group_size, int64_t quads, int rows, int8_t* out) {
  if (rows == 1) {
    std::memcpy(out, x, static_cast<uint64_t>(group_size));
    std::memset(out + group_size, 0, static_cast<uint64_t>(4 * quads - group_size));
    return;
  }
  int64_t q = 0;
  for (; 4 * (q + 1) <= group_size; ++q) std::memcpy(out + q * 4 * rows, x + 4 * q, 4);
  for (; q < quads; ++q) {
    std::memset(out + q * 4 * rows, 0, 4);
    if (4 * q < group_size) {
      std::memcpy(out + q * 4 * rows, x + 4 * q, static_cast<uint64_t>(group_size - 4 * q));
    }
  }
}

void PackRows(const PackRowsArgs& a) {
  for (int r = 0; r < a.rows; ++r) {
    const int8_t* x = a.x + r * a.x_stride;
    int32_t* sums = a.sums + r * (a.num_groups + 1);
    int32_t total = 0;
    for (int64_t j = 0; j < a.num_groups; ++j) {
      PackGroup(x + j * a.group_size, a.group_size, a.group_quads, a.rows,
                a.tile + (j * a.group_quads * a.rows + r) * 4);
      sums[j] = SumBytes(x + j * a.group_size, a.group_size);
      total += sums[j];
    }
    sums[a.num_groups] = total;
  }
}

constexpr int kStreamRows = 12;  // sums and totals of as many rows fit the registers

// ---- One tile: weights are read once and unpacked in registers ----

// A sum for each row is a chain of dependent additions: few rows need two chains each to keep the
// multipliers busy, many have no registers for them.
template <int R>
inline constexpr bool kTwoChains = R <= 6;

// Asks for weights ahead of the arithmetic. With few rows memory is the slower of both, and what
// goes straight to the first cache comes soonest. With more the arithmetic is: requests that wait
// for memory on the way to the first cache would hold it up, so they go to the second one.
template <int R, int kBits>
[[gnu::always_inline]] inline void Prefetch(const uint8_t* w) {
  const auto* at = reinterpret_cast<const char*>(w);
  if constexpr (R <= (kBits == 4 ? 2 : 3)) {
    _mm_prefetch(at + 8192, _MM_HINT_T0);
  } else {
    _mm_prefetch(at + 16384, _MM_HINT_T1);
    _mm_prefetch(at + 4096, _MM_HINT_T0);
  }
}

// Scales are a second stream, of a line every one or two groups: too slow for the processor's own
// prefetchers to follow. Asked for as far ahead as codes are; a group's end waited for them.
template <bool kFloat>
[[gnu::always_inline]] inline void PrefetchScales(const QuantPart& part, int64_t block,
                                                  int64_t group) {
  constexpr int64_t kQuadsAhead = 256;
  const int64_t ahead = kQuadsAhead / part.group_quads;
  const int64_t at = (block * part.num_groups + group + ahead) * kBlockRows;
  if constexpr (kFloat) {
    _mm_prefetch(reinterpret_cast<const char*>(part.float_scales + at), _MM_HINT_T0);
  } else {
    _mm_prefetch(reinterpret_cast<const char*>(part.int_scales + at), _MM_HINT_T0);
  }
}

// sums[r] += sum over one group of x * code, 4-bit codes. With two chains the high nibbles are used
// where they stand, 16 times too large; their sum is a multiple of 16, so the shift is exact.
// Always inlined, so that `sums` can live in registers.
template <int R>
[[gnu::always_inline]] inline void GroupSums4(const uint8_t* w, const int8_t* x, int64_t quads,
                                              __m512i (&sums)[R]) {
  const __m512i low_mask = _mm512_set1_epi8(0x0F);
  __m512i high[R];
  Unroll<R>([&](auto r) { high[r] = _mm512_setzero_si512(); });
  for (int64_t q = 0; q < quads; q += 2, w += 64, x += 8 * R) {
    Prefetch<R, 4>(w);
    const __m512i codes = LoadBytes(w);
    const __m512i lo = _mm512_and_si512(codes, low_mask);
    if constexpr (kTwoChains<R>) {
      const __m512i hi = _mm512_andnot_si512(low_mask, codes);
      Unroll<R>([&](auto r) {
        sums[r] = _mm512_dpbusd_epi32(sums[r], lo, Broadcast(x + 4 * r));
        high[r] = _mm512_dpbusd_epi32(high[r], hi, Broadcast(x + 4 * (R + r)));
      });
    } else {
      const __m512i hi = _mm512_and_si512(_mm512_srli_epi16(codes, 4), low_mask);
      Unroll<R>([&](auto r) { sums[r] = _mm512_dpbusd_epi32(sums[r], lo, Broadcast(x + 4 * r)); });
      Unroll<R>(
          [&](auto r) { sums[r] = _mm512_dpbusd_epi32(sums[r], hi, Broadcast(x + 4 * (R + r))); });
    }
  }
  if constexpr (kTwoChains<R>) {
    Unroll<R>([&](auto r) { sums[r] = _mm512_add_epi32(sums[r], _mm512_srai_epi32(high[r], 4)); });
  }
}

template <int R>
[[gnu::always_inline]] inline void GroupSums8(const uint8_t* w, const int8_t* x, int64_t quads,
                                              __m512i (&sums)[R]) {
  __m512i odd[R];
  Unroll<R>([&](auto r) { odd[r] = _mm512_setzero_si512(); });
  for (int64_t q = 0; q < quads; q += 2, w += 128, x += 8 * R) {
    Prefetch<R, 8>(w);
    Prefetch<R, 8>(w + 64);
    const __m512i first = LoadBytes(w);
    const __m512i second = LoadBytes(w + 64);
    if constexpr (kTwoChains<R>) {
      Unroll<R>([&](auto r) {
        sums[r] = _mm512_dpbusd_epi32(sums[r], first, Broadcast(x + 4 * r));
        odd[r] = _mm512_dpbusd_epi32(odd[r], second, Broadcast(x + 4 * (R + r)));
      });
    } else {
      Unroll<R>(
          [&](auto r) { sums[r] = _mm512_dpbusd_epi32(sums[r], first, Broadcast(x + 4 * r)); });
      Unroll<R>([&](auto r) {
        sums[r] = _mm512_dpbusd_epi32(sums[r], second, Broadcast(x + 4 * (R + r)));
      });
    }
  }
  if constexpr (kTwoChains<R>) {
    Unroll<R>([&](auto r) { sums[r] = _mm512_add_epi32(sums[r], odd[r]); });
  }
}

template <int R, int kBits, bool kFloat>
void TileBlock(const QuantPart& part, const QuantRows& rows, int64_t row, int64_t block,
               const QuantOutput& out) {
  const int64_t quads = part.group_quads;
  const uint8_t* w = part.codes + block * part.block_bytes();
  const int8_t* x = rows.tiles + row * part.quads() * 4;
  const int32_t* x_sums = rows.sums + row * (part.num_groups + 1);
  const __m512i bias = _mm512_set1_epi32(-part.bias());
  __m512i totals[R];
  Unroll<R>([&](auto r) { totals[r] = _mm512_setzero_si512(); });
  for (int64_t j = 0; j < part.num_groups; ++j) {
    PrefetchScales<kFloat>(part, block, j);
    __m512i sums[R];
    Unroll<R>([&](auto r) {
      sums[r] = _mm512_mullo_epi32(bias, _mm512_set1_epi32(x_sums[r * (part.num_groups + 1) + j]));
    });
    if constexpr (kBits == 4) {
      GroupSums4<R>(w, x, quads, sums);
    } else {
      GroupSums8<R>(w, x, quads, sums);
    }
    Unroll<R>([&](auto r) { totals[r] = AddScaled<kFloat>(part, block, j, sums[r], totals[r]); });
    w += quads * (kBits == 4 ? 32 : 64);
    x += quads * 4 * R;
  }
  Unroll<R>([&](auto r) { StoreTotals<kFloat>(part, rows, row + r, block, totals[r], out); });
}

// Folded scales multiplied in while unpacking: no work for a group but its scales, where scaling R
// sums for each short group would cost more.
template <int R>
void FoldedTileBlock(const QuantPart& part, const QuantRows& rows, int64_t row, int64_t block,
                     const QuantOutput& out) {
  const __m512i mask = _mm512_set1_epi8(0x0F);
  const uint8_t* w = part.codes + block * part.block_bytes();
  const int8_t* x = rows.tiles + row * part.quads() * 4;
  const int32_t* x_sums = rows.sums + row * (part.num_groups + 1) + part.num_groups;
  __m512i totals[R];
  Unroll<R>(
      [&](auto r) { totals[r] = _mm512_set1_epi32(-128 * x_sums[r * (part.num_groups + 1)]); });
  for (int64_t j = 0; j < part.num_groups; ++j) {
    PrefetchScales<false>(part, block, j);
    const FoldedGroup group = FoldedGroupOf(part, block, j);
    for (int64_t q = 0; q < part.group_quads; q += 2, w += 64, x += 8 * R) {
      Prefetch<R, 4>(w);
      const __m512i codes = LoadBytes(w);
      const __m512i lo = group.Unpack(_mm512_and_si512(codes, mask));
      const __m512i hi = group.Unpack(_mm512_and_si512(_mm512_srli_epi16(codes, 4), mask));
      Unroll<R>(
          [&](auto r) { totals[r] = _mm512_dpbusd_epi32(totals[r], lo, Broadcast(x + 4 * r)); });
      Unroll<R>([&](auto r) {
        totals[r] = _mm512_dpbusd_epi32(totals[r], hi, Broadcast(x + 4 * (R + r)));
      });
    }
  }
  Unroll<R>([&](auto r) { StoreTotals<false>(part, rows, row + r, block, totals[r], out); });
}

// From these many rows on, and up to so long a group, FoldedTileBlock is the faster one.
constexpr int kFoldedRows = 4;
constexpr int64_t kFoldedQuads = 16;

template <int R>
void TileRows(const QuantPart& part, const QuantRows& rows, int64_t row, int64_t block_begin,
              int64_t block_end, const QuantOutput& out) {
  for (int64_t block = block_begin; block < block_end; ++block) {
    if (part.float_scales != nullptr) {
      if (part.bits == 4) {
        TileBlock<R, 4, true>(part, rows, row, block, out);
      } else {
        TileBlock<R, 8, true>(part, rows, row, block, out);
      }
    } else if (R >= kFoldedRows && part.folded && part.group_quads <= kFoldedQuads) {
      FoldedTileBlock<R>(part, rows, row, block, out);
    } else if (part.bits == 4) {
      TileBlock<R, 4, false>(part, rows, row, block, out);
    } else {
      TileBlock<R, 8, false>(part, rows, row, block, out);
    }
  }
}

void RunTile(const QuantPart& part, const QuantRows& rows, int64_t tile, int64_t block_begin,
             int64_t block_end, const QuantOutput& out) {
  constexpr decltype(&TileRows<1>) kByRows[kStreamRows] = {
      &TileRows<1>, &TileRows<2>, &TileRows<3>, &TileRows<4>,  &TileRows<5>,  &TileRows<6>,
      &TileRows<7>, &TileRows<8>, &TileRows<9>, &TileRows<10>, &TileRows<11>, &TileRows<12>};
  const int64_t row = rows.TileBegin(tile);
  kByRows[rows.TileBegin(tile + 1) - row - 1](part, rows, row, block_begin, block_end, out);
}

}  // namespace
}  // namespace avx512

QuantGemmKernels Avx512QuantGemmKernels() {
  return {.stream_rows = avx512::kStreamRows,
          .panel_rows = 6,
          .streamed_rows = 60,
          .pack_rows = &avx512::PackRows,
          .run_tile = &avx512::RunTile,
          .run_panel = &avx512::RunPanel};
}

}  // namespace intermix::cpu
