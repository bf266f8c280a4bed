// Quantised GEMM with AVX-512 VNNI: vpdpbusd multiplies unsigned codes by signed activations and
// adds four products to an int32 lane, wrapping, never saturating. A lane is an out feature, so an
// activation word is broadcast and no lane is ever summed across.
#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "kernels/cpu/lanes_avx512.h"
#include "kernels/cpu/quant_gemm.h"

namespace intermix::cpu {
namespace {

__m512i LoadBytes(const uint8_t* p) { return _mm512_loadu_si512(p); }

// The word of 4 activations at p, in every lane.
__m512i Broadcast(const int8_t* p) {
  int32_t word;
  std::memcpy(&word, p, 4);
  return _mm512_set1_epi32(word);
}

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

// ---- Scaling ----

__m512i IntScales(const QuantPart& part, int64_t block, int64_t group) {
  const int16_t* p = part.int_scales + (block * part.num_groups + group) * kBlockRows;
  return _mm512_cvtepi16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}

__m512 FloatScales(const QuantPart& part, int64_t block, int64_t group) {
  return _mm512_loadu_ps(part.float_scales + (block * part.num_groups + group) * kBlockRows);
}

// total += group sum * scale; float totals travel as their bits.
template <bool kFloat>
__m512i AddScaled(const QuantPart& part, int64_t block, int64_t group, __m512i sum, __m512i total) {
  if constexpr (kFloat) {
    return _mm512_castps_si512(_mm512_fmadd_ps(
        _mm512_cvtepi32_ps(sum), FloatScales(part, block, group), _mm512_castsi512_ps(total)));
  } else {
    return _mm512_add_epi32(total, _mm512_mullo_epi32(sum, IntScales(part, block, group)));
  }
}

// Dequantises the totals of one row and block and writes those that exist.
template <bool kFloat>
void StoreTotals(const QuantPart& part, const QuantRows& rows, int64_t row, int64_t block,
                 __m512i total, const QuantOutput& out) {
  const int64_t col = block * kBlockRows;
  const int64_t rest = part.n - col;
  const int64_t at = row * out.stride + col;
  const __mmask16 mask =
      rest >= kBlockRows ? __mmask16{0xFFFF} : static_cast<__mmask16>((1u << rest) - 1u);
  if (out.type == OutputType::kInt32) {
    _mm512_mask_storeu_epi32(static_cast<int32_t*>(out.y) + at, mask, total);
    return;
  }
  const __m512 scale = _mm512_set1_ps(rows.scales[row]);
  __m512 y;
  if constexpr (kFloat) {
    y = _mm512_mul_ps(_mm512_castsi512_ps(total), scale);
  } else {
    const __m512 c = _mm512_loadu_ps(part.channel_scales + col);
    y = _mm512_mul_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(total), c), scale);
  }
  if (out.type == OutputType::kFloat) {
    _mm512_mask_storeu_ps(static_cast<float*>(out.y) + at, mask, y);
  } else if (rest >= kBlockRows) {
    LanesAvx512{y}.Store(static_cast<uint16_t*>(out.y) + at, Full());
  } else {
    LanesAvx512{y}.Store(static_cast<uint16_t*>(out.y) + at, Tail{static_cast<int>(rest)});
  }
}

// ---- One tile: weights are read once and unpacked in registers ----

// sums[r] = sum over one group of x * code, 4-bit codes. The high nibbles are used where they
// stand, 16 times too large; their sum is a multiple of 16, so the shift is exact.
template <int R>
void GroupSums4(const uint8_t* w, const int8_t* x, int64_t quads, __m512i* sums) {
  const __m512i low_mask = _mm512_set1_epi8(0x0F);
  __m512i high[R];
  for (__m512i& h : high) h = _mm512_setzero_si512();
  for (int64_t q = 0; q < quads; q += 2, w += 64, x += 8 * R) {
    _mm_prefetch(reinterpret_cast<const char*>(w + 1024), _MM_HINT_T0);
    const __m512i codes = LoadBytes(w);
    const __m512i lo = _mm512_and_si512(codes, low_mask);
    const __m512i hi = _mm512_andnot_si512(low_mask, codes);
    for (int r = 0; r < R; ++r) {
      sums[r] = _mm512_dpbusd_epi32(sums[r], lo, Broadcast(x + 4 * r));
      high[r] = _mm512_dpbusd_epi32(high[r], hi, Broadcast(x + 4 * (R + r)));
    }
  }
  for (int r = 0; r < R; ++r) sums[r] = _mm512_add_epi32(sums[r], _mm512_srai_epi32(high[r], 4));
}

template <int R>
void GroupSums8(const uint8_t* w, const int8_t* x, int64_t quads, __m512i* sums) {
  __m512i odd[R];
  for (__m512i& o : odd) o = _mm512_setzero_si512();
  for (int64_t q = 0; q < quads; q += 2, w += 128, x += 8 * R) {
    _mm_prefetch(reinterpret_cast<const char*>(w + 2048), _MM_HINT_T0);
    _mm_prefetch(reinterpret_cast<const char*>(w + 2112), _MM_HINT_T0);
    const __m512i first = LoadBytes(w);
    const __m512i second = LoadBytes(w + 64);
    for (int r = 0; r < R; ++r) {
      sums[r] = _mm512_dpbusd_epi32(sums[r], first, Broadcast(x + 4 * r));
      odd[r] = _mm512_dpbusd_epi32(odd[r], second, Broadcast(x + 4 * (R + r)));
    }
  }
  for (int r = 0; r < R; ++r) sums[r] = _mm512_add_epi32(sums[r], odd[r]);
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
  for (__m512i& t : totals) t = _mm512_setzero_si512();
  for (int64_t j = 0; j < part.num_groups; ++j) {
    __m512i sums[R];
    for (int r = 0; r < R; ++r) {
      sums[r] = _mm512_mullo_epi32(bias, _mm512_set1_epi32(x_sums[r * (part.num_groups + 1) + j]));
    }
    if constexpr (kBits == 4) {
      GroupSums4<R>(w, x, quads, sums);
    } else {
      GroupSums8<R>(w, x, quads, sums);
    }
    for (int r = 0; r < R; ++r) totals[r] = AddScaled<kFloat>(part, block, j, sums[r], totals[r]);
    w += quads * (kBits == 4 ? 32 : 64);
    x += quads * 4 * R;
  }
  for (int r = 0; r < R; ++r) StoreTotals<kFloat>(part, rows, row + r, block, totals[r], out);
}

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
    } else if (part.bits == 4) {
      TileBlock<R, 4, false>(part, rows, row, block, out);
    } else {
      TileBlock<R, 8, false>(part, rows, row, block, out);
    }
  }
}

void RunTile(const QuantPart& part, const QuantRows& rows, int64_t tile, int64_t block_begin,
             int64_t block_end, const QuantOutput& out) {
  constexpr decltype(&TileRows<1>) kByRows[] = {&TileRows<1>, &TileRows<2>, &TileRows<3>,
                                                &TileRows<4>, &TileRows<5>, &TileRows<6>};
  static_assert(kTileRows == 6);
  const int64_t row = rows.TileBegin(tile);
  kByRows[rows.TileBegin(tile + 1) - row - 1](part, rows, row, block_begin, block_end, out);
}

// ---- Many tiles: a panel of K is unpacked to bytes once and reused over the tiles ----

// The quads [begin, end) of K that a panel covers, whole groups unless `raw`.
struct Panel {
  int64_t begin;
  int64_t end;
  int64_t quads() const { return end - begin; }
};

// Unpacks one group's share of one block.  w: nibbles, quads even, out [quads][64]
void UnpackGroup(const uint8_t* w, int64_t quads, __m512i scale, __m512i offset, uint8_t* out) {
  const __m512i mask = _mm512_set1_epi8(0x0F);
  for (int64_t q = 0; q < quads; q += 2, w += 64, out += 128) {
    const __m512i codes = LoadBytes(w);
    const __m512i lo = _mm512_and_si512(codes, mask);
    const __m512i hi = _mm512_and_si512(_mm512_srli_epi16(codes, 4), mask);
    _mm512_store_si512(out, _mm512_add_epi8(_mm512_mullo_epi16(lo, scale), offset));
    _mm512_store_si512(out + 64, _mm512_add_epi8(_mm512_mullo_epi16(hi, scale), offset));
  }
}

// Folded: code * I + 128. (x * I + 128 - 8 I on unsigned nibbles x; as x * I <= 225, multiplying
// two of them as one 16-bit number carries nothing across.) Otherwise the nibbles as they are.
void UnpackPanel(const QuantPart& part, int64_t block, Panel panel, uint8_t* out) {
  const uint8_t* w = part.codes + block * part.block_bytes();
  for (int64_t q = panel.begin; q < panel.end;) {
    const int64_t group = q / part.group_quads;
    const int64_t group_end = (group + 1) * part.group_quads;
    const int64_t end = group_end < panel.end ? group_end : panel.end;
    __m512i scale = _mm512_set1_epi16(1);
    __m512i offset = _mm512_setzero_si512();
    if (part.folded) {
      const __m512i i = IntScales(part, block, group);
      scale = _mm512_or_si512(i, _mm512_slli_epi32(i, 16));
      const __m512i o = _mm512_sub_epi8(
          _mm512_set1_epi8(-128),
          _mm512_slli_epi32(_mm512_or_si512(scale, _mm512_slli_epi32(scale, 8)), 3));
      offset = o;
    }
    UnpackGroup(w + q * 32, end - q, scale, offset, out + (q - panel.begin) * 64);
    q = end;
  }
}

// acc[b][r] += codes . x over `quads`, B blocks by R rows: the inner loop of prefill.
template <int B, int R>
void Multiply(const uint8_t* w, int64_t block_stride, const int8_t* x, int64_t quads,
              __m512i (&acc)[B][R]) {
  for (int64_t q = 0; q < quads; ++q, w += 64, x += 4 * R) {
    __m512i codes[B];
    for (int b = 0; b < B; ++b) codes[b] = LoadBytes(w + b * block_stride);
    for (int r = 0; r < R; ++r) {
      const __m512i word = Broadcast(x + 4 * r);
      for (int b = 0; b < B; ++b) acc[b][r] = _mm512_dpbusd_epi32(acc[b][r], codes[b], word);
    }
  }
}

// What every tile of a panel shares.
struct PanelContext {
  const QuantPart& part;
  const QuantRows& rows;
  int64_t block;           // the first one
  const uint8_t* weights;  // bytes of the panel's first quad
  int64_t block_stride;
  Panel panel;
  bool raw;  // one sum over all of K, scaled (if at all) at the end
  int bias;
};

// totals [R][kPanelBlocks][16], carried from panel to panel.
template <int B, int R>
void PanelTileRaw(const PanelContext& c, int64_t row, int32_t* totals) {
  __m512i acc[B][R];
  const int64_t groups = c.part.num_groups;
  for (int r = 0; r < R; ++r) {
    const int32_t sum = c.rows.sums[(row + r) * (groups + 1) + groups];
    for (int b = 0; b < B; ++b) {
      acc[b][r] = c.panel.begin == 0
                      ? _mm512_set1_epi32(-c.bias * sum)
                      : _mm512_load_si512(totals + (r * kPanelBlocks + b) * kBlockRows);
    }
  }
  const int8_t* x = c.rows.tiles + row * c.part.quads() * 4 + c.panel.begin * 4 * R;
  Multiply<B, R>(c.weights, c.block_stride, x, c.panel.quads(), acc);
  for (int r = 0; r < R; ++r) {
    for (int b = 0; b < B; ++b) {
      _mm512_store_si512(totals + (r * kPanelBlocks + b) * kBlockRows, acc[b][r]);
    }
  }
}

template <int B, int R, bool kFloat>
void PanelTileGroups(const PanelContext& c, int64_t row, int32_t* totals) {
  const int64_t groups = c.part.num_groups;
  const int64_t quads = c.part.group_quads;
  const int8_t* x = c.rows.tiles + row * c.part.quads() * 4 + c.panel.begin * 4 * R;
  const uint8_t* w = c.weights;
  for (int64_t j = c.panel.begin / quads; j < c.panel.end / quads; ++j) {
    __m512i acc[B][R];
    for (int r = 0; r < R; ++r) {
      const __m512i start = _mm512_set1_epi32(-c.bias * c.rows.sums[(row + r) * (groups + 1) + j]);
      for (int b = 0; b < B; ++b) acc[b][r] = start;
    }
    Multiply<B, R>(w, c.block_stride, x, quads, acc);
    w += quads * 64;
    x += quads * 4 * R;
    for (int r = 0; r < R; ++r) {
      for (int b = 0; b < B; ++b) {
        int32_t* at = totals + (r * kPanelBlocks + b) * kBlockRows;
        const __m512i total = j == 0 ? _mm512_setzero_si512() : _mm512_load_si512(at);
        _mm512_store_si512(at, AddScaled<kFloat>(c.part, c.block + b, j, acc[b][r], total));
      }
    }
  }
}

template <int B, int R>
void PanelTile(const PanelContext& c, int64_t row, int32_t* totals) {
  if (c.raw) {
    PanelTileRaw<B, R>(c, row, totals);
  } else if (c.part.float_scales != nullptr) {
    PanelTileGroups<B, R, true>(c, row, totals);
  } else {
    PanelTileGroups<B, R, false>(c, row, totals);
  }
}

template <int B>
void PanelTiles(const PanelContext& c, int64_t tile_begin, int64_t tile_end, int32_t* totals) {
  constexpr decltype(&PanelTile<B, 1>) kByRows[] = {&PanelTile<B, 1>, &PanelTile<B, 2>,
                                                    &PanelTile<B, 3>, &PanelTile<B, 4>,
                                                    &PanelTile<B, 5>, &PanelTile<B, 6>};
  const int64_t first = c.rows.TileBegin(tile_begin);
  for (int64_t tile = tile_begin; tile < tile_end; ++tile) {
    const int64_t row = c.rows.TileBegin(tile);
    kByRows[c.rows.TileBegin(tile + 1) - row - 1](
        c, row, totals + (row - first) * kPanelBlocks * kBlockRows);
  }
}

template <bool kFloat>
void StorePanel(const PanelContext& c, int64_t row_begin, int64_t row_end, int64_t block_end,
                const int32_t* totals, const QuantOutput& out) {
  const bool scale_at_end = c.raw && !c.part.folded;
  for (int64_t row = row_begin; row < row_end; ++row) {
    for (int64_t block = c.block; block < block_end; ++block) {
      const int64_t at = (row - row_begin) * kPanelBlocks + (block - c.block);
      __m512i total = _mm512_load_si512(totals + at * kBlockRows);
      if (scale_at_end) {
        total = AddScaled<kFloat>(c.part, block, 0, total, _mm512_setzero_si512());
      }
      StoreTotals<kFloat>(c.part, c.rows, row, block, total, out);
    }
  }
}

void RunPanel(const QuantPart& part, const QuantRows& rows, int64_t tile_begin, int64_t tile_end,
              int64_t block_begin, int64_t block_end, const PanelScratch& scratch,
              const QuantOutput& out) {
  constexpr decltype(&PanelTiles<1>) kByBlocks[] = {&PanelTiles<1>, &PanelTiles<2>, &PanelTiles<3>,
                                                    &PanelTiles<4>};
  static_assert(kPanelBlocks == 4);
  const int64_t num_blocks = block_end - block_begin;
  const bool raw = part.folded || part.num_groups == 1;
  const int64_t whole_groups = kPanelQuads / part.group_quads * part.group_quads;
  const int64_t step =
      raw || whole_groups == 0 ? (raw ? kPanelQuads : part.group_quads) : whole_groups;
  PanelContext c{.part = part,
                 .rows = rows,
                 .block = block_begin,
                 .weights = scratch.weights,
                 .block_stride = 0,
                 .panel = {0, 0},
                 .raw = raw,
                 .bias = part.folded ? 128 : part.bias()};
  for (int64_t q = 0; q < part.quads(); q += step) {
    c.panel = {q, q + step < part.quads() ? q + step : part.quads()};
    if (part.bits == 4) {
      c.block_stride = c.panel.quads() * 64;
      for (int64_t b = 0; b < num_blocks; ++b) {
        UnpackPanel(part, block_begin + b, c.panel, scratch.weights + b * c.block_stride);
      }
    } else {
      c.block_stride = part.block_bytes();
      c.weights = part.codes + block_begin * part.block_bytes() + q * 64;
    }
    kByBlocks[num_blocks - 1](c, tile_begin, tile_end, scratch.sums);
  }
  const int64_t row_begin = rows.TileBegin(tile_begin);
  const int64_t row_end = rows.TileBegin(tile_end);
  if (part.float_scales != nullptr) {
    StorePanel<true>(c, row_begin, row_end, block_end, scratch.sums, out);
  } else {
    StorePanel<false>(c, row_begin, row_end, block_end, scratch.sums, out);
  }
}

}  // namespace

QuantGemmKernels Avx512QuantGemmKernels() {
  return {.pack_rows = &PackRows, .run_tile = &RunTile, .run_panel = &RunPanel};
}

}  // namespace intermix::cpu
