// What the quantised AVX-512 kernels share: loads, group scales, and the way from a total to an
// output. Included by quant_tile_avx512.cc and quant_panel_avx512.cc only.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "kernels/cpu/lanes_avx512.h"
#include "kernels/cpu/quant_gemm.h"

namespace intermix::cpu::avx512 {

inline __m512i LoadBytes(const uint8_t* p) { return _mm512_loadu_si512(p); }

// The word of 4 activations at p, in every lane.
inline __m512i Broadcast(const int8_t* p) {
  int32_t word;
  std::memcpy(&word, p, 4);
  return _mm512_set1_epi32(word);
}

inline __m512i IntScales(const QuantPart& part, int64_t block, int64_t group) {
  const int16_t* p = part.int_scales + (block * part.num_groups + group) * kBlockRows;
  return _mm512_cvtepi16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}

inline __m512 FloatScales(const QuantPart& part, int64_t block, int64_t group) {
  return _mm512_loadu_ps(part.float_scales + (block * part.num_groups + group) * kBlockRows);
}

// What turns the nibbles of one group, two to a 16-bit number, into code * I + 128 for folded
// scales I: nibbles * scale + offset. (With nibbles x = code + 8: x * I + 128 - 8 I; as x * I <=
// 225, multiplying two of them as one number carries nothing across.)
struct FoldedGroup {
  __m512i scale;
  __m512i offset;
  __m512i Unpack(__m512i nibbles) const {
    return _mm512_add_epi8(_mm512_mullo_epi16(nibbles, scale), offset);
  }
};

inline FoldedGroup FoldedGroupOf(const QuantPart& part, int64_t block, int64_t group) {
  const __m512i i = IntScales(part, block, group);
  const __m512i scale = _mm512_or_si512(i, _mm512_slli_epi32(i, 16));
  const __m512i eight = _mm512_slli_epi32(_mm512_or_si512(scale, _mm512_slli_epi32(scale, 8)), 3);
  return {scale, _mm512_sub_epi8(_mm512_set1_epi8(-128), eight)};
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

// quant_panel_avx512.cc; see QuantGemmKernels.
void RunPanel(const QuantPart& part, const QuantRows& rows, int64_t tile_begin, int64_t tile_end,
              int64_t block_begin, int64_t block_end, const PanelScratch& scratch,
              const QuantOutput& out);

}  // namespace intermix::cpu::avx512
