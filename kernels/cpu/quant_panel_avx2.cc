// Quantised GEMM with AVX2, many rows: a panel of K is unpacked to bytes once and reused over all
// tiles of rows. Products of nibbles are summed in pairs of int16, and the instruction that adds
// the pairs multiplies by the group's integer scale at the same time.
#include "kernels/cpu/quant_avx2_inl.h"

namespace intermix::cpu::avx2 {
namespace {

constexpr int kRows = 3;  // of a tile at once: their totals and pairs fit the registers
// Quads of a panel; the rest of the memory for weights is for scales.
constexpr int64_t kQuads = kPanelQuads / 2;
constexpr int64_t kTotals = int64_t{kPanelBlocks} * kBlockRows;  // of a row

// Whole groups of one block, unpacked.
struct Panel {
  const uint8_t* weights;  // [quads][16 rows][4 k] bytes, code + 8
  const int16_t* scales;   // [groups][16 rows][2], each twice
  int64_t group_begin;
  int64_t group_end;
  int64_t group_quads;
};

// w: nibbles; out [quads][64]
void UnpackCodes(const uint8_t* w, int64_t quads, uint8_t* out) {
  const __m256i mask = _mm256_set1_epi8(0x0F);
  for (int64_t q = 0; q < quads; q += 2, w += 64, out += 128) {
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

// pairs[r][h] = sums of two products over `quads` (at most kFlushQuads). Always inlined, so that
// `pairs` can live in registers.
template <int R>
[[gnu::always_inline]] inline void AddPairs(const uint8_t* w, const int8_t* x, int64_t stride,
                                            int64_t quads, __m256i (&pairs)[R][2]) {
  Unroll<R>([&](auto r) { pairs[r][0] = pairs[r][1] = _mm256_setzero_si256(); });
  for (int64_t q = 0; q < quads; ++q, w += 64, x += stride) {
    const __m256i first = LoadBytes(w);
    const __m256i second = LoadBytes(w + 32);
    Unroll<R>([&](auto r) {
      const __m256i word = Broadcast(x + 4 * r);
      pairs[r][0] = _mm256_add_epi16(pairs[r][0], _mm256_maddubs_epi16(first, word));
      pairs[r][1] = _mm256_add_epi16(pairs[r][1], _mm256_maddubs_epi16(second, word));
    });
  }
}

// R rows of a tile.
//   x       their words of the panel's first quad, `stride` bytes from quad to quad
//   x_sums  their sums over each group, `sums_stride` from row to row
//   totals  [R][kPanelBlocks][16], of which this block has 16; carried from panel to panel
template <int R>
void PanelRows(const Panel& panel, const int8_t* x, int64_t stride, const int32_t* x_sums,
               int64_t sums_stride, int32_t* totals) {
  const auto at = [totals](int r, int h) {
    return reinterpret_cast<__m256i*>(totals + r * kTotals + 8 * h);
  };
  __m256i sums[R][2];
  Unroll<R>([&](auto r) {
    Unroll<2>([&](auto h) {
      sums[r][h] = panel.group_begin == 0 ? _mm256_setzero_si256() : _mm256_load_si256(at(r, h));
    });
  });
  const uint8_t* w = panel.weights;
  const auto* scales = reinterpret_cast<const __m256i*>(panel.scales);
  for (int64_t j = panel.group_begin; j < panel.group_end; ++j, scales += 2) {
    for (int64_t q = 0; q < panel.group_quads; q += kFlushQuads) {
      const int64_t rest = panel.group_quads - q;
      const int64_t quads = rest < kFlushQuads ? rest : kFlushQuads;
      __m256i pairs[R][2];
      AddPairs<R>(w, x, stride, quads, pairs);
      w += 64 * quads;
      x += stride * quads;
      Unroll<R>([&](auto r) {
        Unroll<2>([&](auto h) {
          const __m256i scaled = _mm256_madd_epi16(pairs[r][h], _mm256_load_si256(scales + h));
          sums[r][h] = _mm256_add_epi32(sums[r][h], scaled);
        });
      });
    }
    // The bias of the codes: 8 * scale * (sum of x, which fits 16 bits).
    Unroll<R>([&](auto r) {
      const __m256i sum = _mm256_set1_epi32(x_sums[r * sums_stride + j] & 0xFFFF);
      Unroll<2>([&](auto h) {
        const __m256i scaled = _mm256_madd_epi16(_mm256_load_si256(scales + h), sum);
        sums[r][h] = _mm256_sub_epi32(sums[r][h], _mm256_slli_epi32(scaled, 3));
      });
    });
  }
  Unroll<R>([&](auto r) { Unroll<2>([&](auto h) { _mm256_store_si256(at(r, h), sums[r][h]); }); });
}

void PanelTile(const Panel& panel, const QuantPart& part, const QuantRows& rows, int64_t tile,
               int32_t* totals) {
  constexpr decltype(&PanelRows<1>) kByRows[kRows] = {&PanelRows<1>, &PanelRows<2>, &PanelRows<3>};
  const int64_t begin = rows.TileBegin(tile);
  const int64_t count = rows.TileBegin(tile + 1) - begin;
  const int64_t stride = 4 * count;
  const int64_t sums_stride = part.num_groups + 1;
  const int8_t* x =
      rows.tiles + begin * part.quads() * 4 + panel.group_begin * panel.group_quads * stride;
  for (int64_t first = 0; first < count; first += kRows) {
    const int64_t some = count - first < kRows ? count - first : kRows;
    kByRows[some - 1](panel, x + 4 * first, stride, rows.sums + (begin + first) * sums_stride,
                      sums_stride, totals + first * kTotals);
  }
}

// At most kPanelBlocks blocks, so that the rows of a panel are read once for all of them.
void Panels(const QuantPart& part, const QuantRows& rows, int64_t tile_begin, int64_t tile_end,
            int64_t block_begin, int64_t block_end, const PanelScratch& scratch) {
  const int64_t row_begin = rows.TileBegin(tile_begin);
  const int64_t step = kQuads / part.group_quads;  // groups of a panel
  auto* scales = reinterpret_cast<int16_t*>(scratch.weights + kPanelBlocks * kQuads * 64);
  for (int64_t group = 0; group < part.num_groups; group += step) {
    const int64_t rest = part.num_groups - group;
    const int64_t groups = rest < step ? rest : step;
    const auto panel_of = [&](int64_t block) {
      return Panel{.weights = scratch.weights + (block - block_begin) * kQuads * 64,
                   .scales = scales + (block - block_begin) * step * 2 * kBlockRows,
                   .group_begin = group,
                   .group_end = group + groups,
                   .group_quads = part.group_quads};
    };
    for (int64_t block = block_begin; block < block_end; ++block) {
      UnpackCodes(part.codes + block * part.block_bytes() + group * part.group_quads * 32,
                  groups * part.group_quads, scratch.weights + (block - block_begin) * kQuads * 64);
      DoubleScales(part.int_scales + (block * part.num_groups + group) * kBlockRows, groups,
                   scales + (block - block_begin) * step * 2 * kBlockRows);
    }
    for (int64_t tile = tile_begin; tile < tile_end; ++tile) {
      int32_t* totals = scratch.sums + (rows.TileBegin(tile) - row_begin) * kTotals;
      for (int64_t block = block_begin; block < block_end; ++block) {
        PanelTile(panel_of(block), part, rows, tile, totals + (block - block_begin) * kBlockRows);
      }
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
  // A longer group fits no panel, and its sums of x may be beyond 16 bits.
  if (part.bits == 4 && part.int_scales != nullptr && part.group_quads <= kQuads) {
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
