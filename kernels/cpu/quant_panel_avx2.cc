// Quantised GEMM with AVX2, many rows: a panel of K is unpacked to bytes once and reused over all
// tiles of rows. Products of nibbles are summed in pairs of int16, and the instruction that adds
// the pairs multiplies by the group's integer scale at the same time. The sums of pairs begin with
// what takes the bias of the nibbles away, so no work is left for that.
#include "kernels/cpu/quant_avx2_inl.h"

namespace intermix::cpu::avx2 {
namespace {

constexpr int kRows = 4;  // of a tile at once: their pairs fit the registers
constexpr int64_t kTotals = int64_t{kPanelBlocks} * kBlockRows;  // of a row
constexpr int64_t kMostFlushes = kPanelGroups;                   // of a panel
// Quads whose pairs of products, the codes' bias taken away, fit int16: 32 times 8 * 127. On the
// way sums may wrap.
constexpr int64_t kPanelFlushQuads = 16;

// Whole groups of one block, unpacked.
struct Panel {
  const uint8_t* weights;  // [quads][16 rows][4 k] bytes, code + 8
  const int16_t* scales;   // [groups][16 rows][2], each twice
  int64_t group_begin;
  int64_t group_end;
  int64_t group_quads;
};

// The rows of a tile over a panel's quads.
struct TileRows {
  const int8_t* x;        // [quads][rows][4]
  int64_t stride;         // bytes from quad to quad
  const int32_t* biases;  // [flushes][8 rows], of Bias
};

// Calls body(group, quads) for all that is summed as int16 before it is scaled, group by group.
template <typename F>
[[gnu::always_inline]] inline void ForFlushes(const Panel& panel, F body) {
  for (int64_t j = panel.group_begin; j < panel.group_end; ++j) {
    for (int64_t q = 0; q < panel.group_quads; q += kPanelFlushQuads) {
      const int64_t rest = panel.group_quads - q;
      body(j - panel.group_begin, rest < kPanelFlushQuads ? rest : kPanelFlushQuads);
    }
  }
}

// Also asks for the same place of the next panel, which comes from memory while this one is used.
//   w: nibbles; out [quads][64]
void UnpackCodes(const uint8_t* w, int64_t quads, uint8_t* out) {
  const __m256i mask = _mm256_set1_epi8(0x0F);
  for (int64_t q = 0; q < quads; q += 2, w += 64, out += 128) {
    _mm_prefetch(reinterpret_cast<const char*>(w + kPanelQuads * 32), _MM_HINT_T1);
    Unroll<2>([&](auto h) {
      const __m256i codes = LoadBytes(w + 32 * h);
      auto* low = reinterpret_cast<__m256i*>(out + 32 * h);
      auto* high = reinterpret_cast<__m256i*>(out + 64 + 32 * h);
      _mm256_store_si256(low, _mm256_and_si256(codes, mask));
      _mm256_store_si256(high, _mm256_and_si256(_mm256_srli_epi16(codes, 4), mask));
    });
  }
}

// scales: [groups][16]; out [groups][16][2]
void DoubleScales(const int16_t* scales, int64_t groups, int16_t* out) {
  for (int64_t i = 0; i < groups * kBlockRows; i += 8) {
    const __m256i wide =
        _mm256_cvtepi16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(scales + i)));
    const __m256i twice = _mm256_blend_epi16(wide, _mm256_slli_epi32(wide, 16), 0xAA);
    _mm256_store_si256(reinterpret_cast<__m256i*>(out + 2 * i), twice);
  }
}

// What takes the bias of the codes, 8, from the pairs of products of `quads`: -8 times the sum of
// x, even and odd pairs apart, of 8 rows. Reads 32 bytes at each quad, whatever rows there are.
__m256i Bias(const int8_t* x, int64_t stride, int64_t quads) {
  const __m256i ones = _mm256_set1_epi8(1);
  const auto pairs = [ones](const int8_t* at) {
    return _mm256_maddubs_epi16(ones, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at)));
  };
  __m256i sum = _mm256_setzero_si256();
  int64_t q = 0;
  for (; q + 4 <= quads; q += 4, x += 4 * stride) {
    const __m256i first = _mm256_add_epi16(pairs(x), pairs(x + stride));
    const __m256i last = _mm256_add_epi16(pairs(x + 2 * stride), pairs(x + 3 * stride));
    sum = _mm256_add_epi16(sum, _mm256_add_epi16(first, last));
  }
  for (; q < quads; ++q, x += stride) sum = _mm256_add_epi16(sum, pairs(x));
  return _mm256_sub_epi16(_mm256_setzero_si256(), _mm256_slli_epi16(sum, 3));
}

// pairs[r][h] += sums of two products of a quad. Always inlined, so that `pairs` can live in
// registers.
template <int R>
[[gnu::always_inline]] inline void AddQuad(const uint8_t* w, const int8_t* x,
                                           __m256i (&pairs)[R][2]) {
  const __m256i first = LoadBytes(w);
  const __m256i second = LoadBytes(w + 32);
  Unroll<R>([&](auto r) {
    const __m256i word = Broadcast(x + 4 * r);
    pairs[r][0] = _mm256_add_epi16(pairs[r][0], _mm256_maddubs_epi16(first, word));
    pairs[r][1] = _mm256_add_epi16(pairs[r][1], _mm256_maddubs_epi16(second, word));
  });
}

// A processor that takes in six instructions a cycle has room for a quad of four rows, 22, and few
// more in the four cycles that its 16 vector operations last: loops are to be short of turns. But
// unrolled any further, the compiler would hold more products than there are registers.
template <int R>
[[gnu::always_inline]] inline void AddQuads(const uint8_t* w, const int8_t* x, int64_t stride,
                                            int64_t quads, __m256i (&pairs)[R][2]) {
  if (quads == 16) {
#pragma GCC unroll 4
    for (int64_t q = 0; q < 16; ++q) AddQuad<R>(w + 64 * q, x + stride * q, pairs);
  } else if (quads == 8) {
#pragma GCC unroll 2
    for (int64_t q = 0; q < 8; ++q) AddQuad<R>(w + 64 * q, x + stride * q, pairs);
  } else {
    for (int64_t q = 0; q < quads; ++q) AddQuad<R>(w + 64 * q, x + stride * q, pairs);
  }
}

// R rows of a tile.
//   totals  [R][kPanelBlocks][16], of which this block has 16; carried from panel to panel
template <int R>
void PanelRows(const Panel& panel, const TileRows& rows, int32_t* totals) {
  const uint8_t* w = panel.weights;
  const int8_t* x = rows.x;
  const int32_t* biases = rows.biases;
  const int64_t stride = rows.stride;
  bool first = panel.group_begin == 0;
  ForFlushes(panel, [&](int64_t group, int64_t quads) {
    __m256i pairs[R][2];
    Unroll<R>([&](auto r) { pairs[r][0] = pairs[r][1] = _mm256_set1_epi32(biases[r]); });
    AddQuads<R>(w, x, stride, quads, pairs);
    w += 64 * quads;
    x += stride * quads;
    biases += 8;
    const auto* scales = reinterpret_cast<const __m256i*>(panel.scales) + 2 * group;
    Unroll<R>([&](auto r) {
      Unroll<2>([&](auto h) {
        auto* at = reinterpret_cast<__m256i*>(totals + r * kTotals + 8 * h);
        const __m256i total = first ? _mm256_setzero_si256() : _mm256_load_si256(at);
        const __m256i scaled = _mm256_madd_epi16(pairs[r][h], _mm256_load_si256(scales + h));
        _mm256_store_si256(at, _mm256_add_epi32(total, scaled));
      });
    });
    first = false;
  });
}

// All rows of a tile, for panels of the same groups of `blocks` blocks.
void PanelTile(const Panel* panels, int64_t blocks, const QuantPart& part, const QuantRows& rows,
               int64_t tile, int32_t* totals) {
  constexpr decltype(&PanelRows<1>) kByRows[kRows] = {&PanelRows<1>, &PanelRows<2>, &PanelRows<3>,
                                                      &PanelRows<4>};
  const int64_t begin = rows.TileBegin(tile);
  const int64_t count = rows.TileBegin(tile + 1) - begin;
  const int64_t stride = 4 * count;
  const int8_t* x = rows.tiles + begin * part.quads() * 4 +
                    panels[0].group_begin * panels[0].group_quads * stride;
  __m256i biases[kMostFlushes];
  const int8_t* at = x;
  ForFlushes(panels[0], [&, flush = biases](int64_t, int64_t quads) mutable {
    *flush++ = Bias(at, stride, quads);
    at += stride * quads;
  });
  for (int64_t first = 0; first < count; first += kRows) {
    const int64_t some = count - first < kRows ? count - first : kRows;
    const TileRows tile_rows{.x = x + 4 * first,
                             .stride = stride,
                             .biases = reinterpret_cast<const int32_t*>(biases) + first};
    for (int64_t b = 0; b < blocks; ++b) {
      kByRows[some - 1](panels[b], tile_rows, totals + first * kTotals + b * kBlockRows);
    }
  }
}

// At most kPanelBlocks blocks, so that the rows of a panel are read once for all of them.
void Panels(const QuantPart& part, const QuantRows& rows, int64_t tile_begin, int64_t tile_end,
            int64_t block_begin, int64_t block_end, const PanelScratch& scratch) {
  const int64_t row_begin = rows.TileBegin(tile_begin);
  const int64_t step = kPanelQuads / part.group_quads;  // groups of a panel
  const int64_t num_blocks = block_end - block_begin;
  for (int64_t group = 0; group < part.num_groups; group += step) {
    const int64_t rest = part.num_groups - group;
    const int64_t groups = rest < step ? rest : step;
    Panel panels[kPanelBlocks];
    for (int64_t b = 0; b < num_blocks; ++b) {
      const int64_t block = block_begin + b;
      uint8_t* w = scratch.weights + b * kPanelQuads * 64;
      int16_t* scales = scratch.scales + b * kPanelGroups * 2 * kBlockRows;
      UnpackCodes(part.codes + block * part.block_bytes() + group * part.group_quads * 32,
                  groups * part.group_quads, w);
      DoubleScales(part.int_scales + (block * part.num_groups + group) * kBlockRows, groups,
                   scales);
      panels[b] = {.weights = w,
                   .scales = scales,
                   .group_begin = group,
                   .group_end = group + groups,
                   .group_quads = part.group_quads};
    }
    for (int64_t tile = tile_begin; tile < tile_end; ++tile) {
      PanelTile(panels, num_blocks, part, rows, tile,
                scratch.sums + (rows.TileBegin(tile) - row_begin) * kTotals);
    }
  }
}

void StorePanels(const QuantPart& part, const QuantRows& rows, int64_t row_begin, int64_t row_end,
                 int64_t block_begin, int64_t block_end, const int32_t* totals,
                 const QuantOutput& out) {
  for (int64_t row = row_begin; row < row_end; ++row, totals += kTotals) {
    for (int64_t block = block_begin; block < block_end; ++block) {
      const auto* at =
          reinterpret_cast<const __m256i*>(totals + (block - block_begin) * kBlockRows);
      const Block16 total = {{_mm256_load_si256(at), _mm256_load_si256(at + 1)}};
      StoreTotals<false>(part, rows, row, block, total, out);
    }
  }
}

}  // namespace

void RunPanel(const QuantPart& part, const QuantRows& rows, int64_t tile_begin, int64_t tile_end,
              int64_t block_begin, int64_t block_end, const PanelScratch& scratch,
              const QuantOutput& out) {
  // A longer group fits no panel.
  if (part.bits == 4 && part.int_scales != nullptr && part.group_quads <= kPanelQuads) {
    Panels(part, rows, tile_begin, tile_end, block_begin, block_end, scratch);
    StorePanels(part, rows, rows.TileBegin(tile_begin), rows.TileBegin(tile_end), block_begin,
                block_end, scratch.sums, out);
    return;
  }
  // A block's codes stay in the cache over all tiles.
  for (int64_t block = block_begin; block < block_end; ++block) {
    for (int64_t tile = tile_begin; tile < tile_end; ++tile) {
      RunTile(part, rows, tile, block, block + 1, out);
    }
  }
}

}  // namespace intermix::cpu::avx2
