// What mma and wgmma of bfloat16 have in common: a warp's fragments of A, and the sum of products.
#pragma once

#include <bit>
#include <cstdint>

namespace emu {

inline float FromBf16(uint32_t bits) { return std::bit_cast<float>(bits << 16); }

// Two elements of a register, the lower half first.
inline void UnpackBf16(uint32_t pair, float* to) {
  to[0] = FromBf16(pair & 0xFFFF);
  to[1] = FromBf16(pair >> 16);
}

// PTX ISA 9.7.15.5.8, "Matrix Fragments for mma.m16n8k16 with floating point type": register r of A
// holds row lane / 4 + 8 * (r & 1), columns 8 * (r >> 1) + 2 * (lane % 4) and the next.
inline void UnpackA(const uint32_t* registers, int lane, float (&a)[16][16]) {
  for (int r = 0; r < 4; ++r) {
    UnpackBf16(registers[r], &a[lane / 4 + 8 * (r & 1)][8 * (r >> 1) + 2 * (lane % 4)]);
  }
}

// Hardware's order and intermediate rounding are not documented, but the same for both
// instructions; here one rounding of the exact sum (the products are exact in double, their sum
// nearly so).
//   row, column  [16]
inline float AddProducts(float before, const float* row, const float* column) {
  double sum = before;
  for (int k = 0; k < 16; ++k) sum += static_cast<double>(row[k]) * column[k];
  return static_cast<float>(sum);
}

}  // namespace emu
