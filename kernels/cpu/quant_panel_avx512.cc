// Quantised GEMM with AVX-512 VNNI, many rows: a panel of K is unpacked to bytes once and reused
// over all tiles of rows.
#include "kernels/cpu/quant_avx512_inl.h"

namespace intermix::cpu::avx512 {
namespace {

// The quads [begin, end) of K that a panel covers, whole groups unless `raw`.
struct Panel {
  int64_t begin;
  int64_t end;
  int64_t quads() const { return end - begin; }
};

// Unpacks one group's share of one block, and asks for the same place of the next panel, which
// comes from memory while this one is used.  w: nibbles, quads even, out [quads][64]
void UnpackGroup(const uint8_t* w, int64_t quads, const FoldedGroup& group, uint8_t* out) {
  const __m512i mask = _mm512_set1_epi8(0x0F);
  for (int64_t q = 0; q < quads; q += 2, w += 64, out += 128) {
    _mm_prefetch(reinterpret_cast<const char*>(w + kPanelQuads * 32), _MM_HINT_T1);
    const __m512i codes = LoadBytes(w);
    const __m512i lo = _mm512_and_si512(codes, mask);
    const __m512i hi = _mm512_and_si512(_mm512_srli_epi16(codes, 4), mask);
    _mm512_store_si512(out, group.Unpack(lo));
    _mm512_store_si512(out + 64, group.Unpack(hi));
  }
}

// Folded: code * I + 128. Otherwise the nibbles as they are.
void UnpackPanel(const QuantPart& part, int64_t block, Panel panel, uint8_t* out) {
  const uint8_t* w = part.codes + block * part.block_bytes();
  for (int64_t q = panel.begin; q < panel.end;) {
    const int64_t group = q / part.group_quads;
    const int64_t group_end = (group + 1) * part.group_quads;
    const int64_t end = group_end < panel.end ? group_end : panel.end;
    const FoldedGroup unpacked = part.folded
                                     ? FoldedGroupOf(part, block, group)
                                     : FoldedGroup{_mm512_set1_epi16(1), _mm512_setzero_si512()};
    if (part.folded) {
      const int64_t next = block * part.num_groups + group + kPanelQuads / part.group_quads;
      _mm_prefetch(reinterpret_cast<const char*>(part.int_scales + next * kBlockRows), _MM_HINT_T1);
    }
    UnpackGroup(w + q * 32, end - q, unpacked, out + (q - panel.begin) * 64);
    q = end;
  }
}

// acc[b][r] += codes . x over `quads`, B blocks by R rows: the inner loop of prefill.
// Always inlined, so that `acc` can live in registers.
template <int B, int R>
[[gnu::always_inline]] inline void Multiply(const uint8_t* w, int64_t block_stride, const int8_t* x,
                                            int64_t quads, __m512i (&acc)[B][R]) {
  for (int64_t q = 0; q < quads; ++q, w += 64, x += 4 * R) {
    __m512i codes[B];
    Unroll<B>([&](auto b) { codes[b] = LoadBytes(w + b * block_stride); });
    Unroll<R>([&](auto r) {
      const __m512i word = Broadcast(x + 4 * r);
      Unroll<B>([&](auto b) { acc[b][r] = _mm512_dpbusd_epi32(acc[b][r], codes[b], word); });
    });
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
  const bool first = c.panel.begin == 0;
  Unroll<R>([&](auto r) {
    const int32_t sum = c.rows.sums[(row + r) * (groups + 1) + groups];
    Unroll<B>([&](auto b) {
      acc[b][r] = first ? _mm512_set1_epi32(-c.bias * sum)
                        : _mm512_load_si512(totals + (r * kPanelBlocks + b) * kBlockRows);
    });
  });
  const int8_t* x = c.rows.tiles + row * c.part.quads() * 4 + c.panel.begin * 4 * R;
  Multiply<B, R>(c.weights, c.block_stride, x, c.panel.quads(), acc);
  Unroll<R>([&](auto r) {
    Unroll<B>([&](auto b) {
      _mm512_store_si512(totals + (r * kPanelBlocks + b) * kBlockRows, acc[b][r]);
    });
  });
}

template <int B, int R, bool kFloat>
void PanelTileGroups(const PanelContext& c, int64_t row, int32_t* totals) {
  const int64_t groups = c.part.num_groups;
  const int64_t quads = c.part.group_quads;
  const int8_t* x = c.rows.tiles + row * c.part.quads() * 4 + c.panel.begin * 4 * R;
  const uint8_t* w = c.weights;
  for (int64_t j = c.panel.begin / quads; j < c.panel.end / quads; ++j) {
    __m512i acc[B][R];
    Unroll<R>([&](auto r) {
      const __m512i start = _mm512_set1_epi32(-c.bias * c.rows.sums[(row + r) * (groups + 1) + j]);
      Unroll<B>([&](auto b) { acc[b][r] = start; });
    });
    Multiply<B, R>(w, c.block_stride, x, quads, acc);
    w += quads * 64;
    x += quads * 4 * R;
    Unroll<R>([&](auto r) {
      Unroll<B>([&](auto b) {
        int32_t* at = totals + (r * kPanelBlocks + b) * kBlockRows;
        const __m512i total = j == 0 ? _mm512_setzero_si512() : _mm512_load_si512(at);
        _mm512_store_si512(at, AddScaled<kFloat>(c.part, c.block + b, j, acc[b][r], total));
      });
    });
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

}  // namespace

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

}  // namespace intermix::cpu::avx512
