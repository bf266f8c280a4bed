// What the quantised AVX2 kernels share: loads, group scales, and the way from a total to an
// output. Included by quant_tile_avx2.cc and quant_panel_avx2.cc only.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "kernels/cpu/lanes_avx2.h"
#include "kernels/cpu/quant_gemm.h"

namespace intermix::cpu::avx2 {

constexpr int64_t kFlushQuads = 8;  // quads whose pairs of products fit int16
constexpr int kPanelTileRows = 8;   // tokens in a tile of RunPanel, which takes four at once

// 16 int32 (or float bits), out features 0 .. 7 and 8 .. 15 of a block.
struct Block16 {
  __m256i half[2];
};

inline __m256i LoadBytes(const uint8_t* p) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
}

inline __m256i Broadcast(const int8_t* p) {
  int32_t word;
  std::memcpy(&word, p, 4);
  return _mm256_set1_epi32(word);
}

template <bool kFloat>
void AddScaled(const QuantPart& part, int64_t block, int64_t group, const Block16& sum,
               Block16& total) {
  const int64_t at = (block * part.num_groups + group) * kBlockRows;
  for (int h = 0; h < 2; ++h) {
    if constexpr (kFloat) {
      const __m256 scale = _mm256_loadu_ps(part.float_scales + at + 8 * h);
      total.half[h] = _mm256_castps_si256(_mm256_fmadd_ps(_mm256_cvtepi32_ps(sum.half[h]), scale,
                                                          _mm256_castsi256_ps(total.half[h])));
    } else {
      const __m256i scale = _mm256_cvtepi16_epi32(
          _mm_loadu_si128(reinterpret_cast<const __m128i*>(part.int_scales + at + 8 * h)));
      total.half[h] = _mm256_add_epi32(total.half[h], _mm256_mullo_epi32(sum.half[h], scale));
    }
  }
}

template <typename T>
void StoreLanes(LanesAvx2 lanes, T* p, int64_t rest) {
  if (rest >= kBlockRows) {
    lanes.Store(p, Full());
  } else {
    lanes.Store(p, Tail{static_cast<int>(rest)});
  }
}

template <bool kFloat>
void StoreTotals(const QuantPart& part, const QuantRows& rows, int64_t row, int64_t block,
                 const Block16& total, const QuantOutput& out) {
  const int64_t col = block * kBlockRows;
  const int64_t at = row * out.stride + col;
  const int64_t rest = part.n - col;
  LanesAvx2 y = {_mm256_castsi256_ps(total.half[0]), _mm256_castsi256_ps(total.half[1])};
  if (out.type == OutputType::kInt32) {  // the bits, unchanged
    StoreLanes(y, reinterpret_cast<float*>(static_cast<int32_t*>(out.y) + at), rest);
    return;
  }
  if constexpr (!kFloat) {
    y = {_mm256_cvtepi32_ps(total.half[0]), _mm256_cvtepi32_ps(total.half[1])};
    y = y * LanesAvx2::Load(part.channel_scales + col, Full());
  }
  y = y * LanesAvx2::Set(rows.scales[row]);
  if (out.type == OutputType::kFloat) {
    StoreLanes(y, static_cast<float*>(out.y) + at, rest);
  } else {
    StoreLanes(y, static_cast<uint16_t*>(out.y) + at, rest);
  }
}

// Blocks [block_begin, block_end) for one tile (QuantGemmKernels::run_tile).
void RunTile(const QuantPart& part, const QuantRows& rows, int64_t tile, int64_t block_begin,
             int64_t block_end, const QuantOutput& out);

// quant_panel_avx2.cc; see QuantGemmKernels.
void RunPanel(const QuantPart& part, const QuantRows& rows, int64_t tile_begin, int64_t tile_end,
              int64_t block_begin, int64_t block_end, const PanelScratch& scratch,
              const QuantOutput& out);

}  // namespace intermix::cpu::avx2
