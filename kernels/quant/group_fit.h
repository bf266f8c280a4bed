// The inner loops of the quantiser: the groups of one row against candidate scales.
// They sum in 16 lanes whatever the instruction set, so every machine quantises to the same bits.
// Pure functions; thread-safe.
#pragma once

#include <cstdint>

namespace intermix {

inline constexpr int64_t kGroupLanes = 16;

// Codes are clamped to [low, high]. Eight bits leave out -128: the range is symmetric.
struct CodeRange {
  float low;
  float high;
};
constexpr CodeRange RangeOf(int bits) {
  return bits == 4 ? CodeRange{-8.0f, 7.0f} : CodeRange{-127.0f, 127.0f};
}

// Groups that lie one after the other, of a size that is a multiple of kGroupLanes.
struct Groups {
  const float* values;  // [count, size]
  int64_t count;
  int64_t size;
  CodeRange range;
};

struct GroupsFit {
  double squared_error = 0.0;  // sum of (w - q * scale)^2
  double product_sum = 0.0;    // sum over groups of multiplier * sum of |q|; exact for integers
};

// How well the codes q = clamp(rne(w / scale)) stand for the groups.
//   scales       [count], positive and not subnormal
//   multipliers  [count]
GroupsFit FitGroups(const Groups& groups, const float* scales, const float* multipliers);

// The same squared_error alone, in two thirds of the time.
double GroupsError(const Groups& groups, const float* scales);

// The codes themselves.
//   codes  [count, size]
void RoundGroups(const Groups& groups, const float* scales, int8_t* codes);

// max |w| of each group; +infinity or NaN where it holds one.
//   maxima  [count]
void GroupMaxima(const Groups& groups, float* maxima);

}  // namespace intermix
