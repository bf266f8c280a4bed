#include "kernels/quant/group_fit.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "kernels/core/lane_math.h"

namespace intermix {
namespace {

// Sixteen lanes as the compilers' own vector type: one AVX-512, two AVX2 or four SSE2 registers.
using Floats [[gnu::vector_size(64)]] = float;
using Ints [[gnu::vector_size(64)]] = int32_t;
using Bytes [[gnu::vector_size(16)]] = int8_t;
using HalfFloats [[gnu::vector_size(32)]] = float;
using Doubles [[gnu::vector_size(64)]] = double;  // eight lanes: compilers spill longer vectors

// The loops, inlined into one function for each instruction set.
struct Loops {
  template <bool kProducts>
  [[gnu::always_inline]] static inline GroupsFit Fit(const Groups& groups, const float* scales,
                                                     const float* multipliers) {
    const Floats low = Floats{} + groups.range.low;
    const Floats high = Floats{} + groups.range.high;
    Floats error{};
    Doubles products[2] = {};
    const float* w = groups.values;
    for (int64_t j = 0; j < groups.count; ++j) {
      const float inverse = 1.0f / scales[j];
      Floats group_error{};  // in units of scale^2
      Floats code_sum{};
      for (const float* end = w + groups.size; w < end; w += kGroupLanes) {
        Floats x;
        std::memcpy(&x, w, sizeof x);
        x = x * inverse;
        Floats q = x < low ? low : x;
        q = q > high ? high : q;
        q = (q + kRound) - kRound;
        const Floats difference = x - q;
        group_error = group_error + difference * difference;
        if constexpr (kProducts) {
          const Ints magnitude = reinterpret_cast<Ints>(q) & 0x7FFFFFFF;
          code_sum = code_sum + reinterpret_cast<Floats>(magnitude);
        }
      }
      error = error + group_error * (scales[j] * scales[j]);
      if constexpr (kProducts) {
        const auto multiplier = static_cast<double>(multipliers[j]);
        HalfFloats halves[2];
        std::memcpy(halves, &code_sum, sizeof halves);
        products[0] += __builtin_convertvector(halves[0], Doubles) * multiplier;
        products[1] += __builtin_convertvector(halves[1], Doubles) * multiplier;
      }
    }
    GroupsFit fit;
    for (int l = 0; l < kGroupLanes; ++l) {
      fit.squared_error += static_cast<double>(error[l]);
      fit.product_sum += products[l / 8][l % 8];
    }
    return fit;
  }

  [[gnu::always_inline]] static inline void Round(const Groups& groups, const float* scales,
                                                  int8_t* codes) {
    const Floats low = Floats{} + groups.range.low;
    const Floats high = Floats{} + groups.range.high;
    const float* w = groups.values;
    for (int64_t j = 0; j < groups.count; ++j) {
      const float inverse = 1.0f / scales[j];
      for (const float* end = w + groups.size; w < end; w += kGroupLanes, codes += kGroupLanes) {
        Floats x;
        std::memcpy(&x, w, sizeof x);
        x = x * inverse;
        x = x < low ? low : x;
        x = x > high ? high : x;
        x = (x + kRound) - kRound;
        const Bytes q = __builtin_convertvector(__builtin_convertvector(x, Ints), Bytes);
        std::memcpy(codes, &q, sizeof q);
      }
    }
  }

  // Magnitudes compare as integers do, NaN above infinity.
  [[gnu::always_inline]] static inline void Maxima(const Groups& groups, float* maxima) {
    const float* w = groups.values;
    for (int64_t j = 0; j < groups.count; ++j) {
      Ints largest{};
      for (const float* end = w + groups.size; w < end; w += kGroupLanes) {
        Ints x;
        std::memcpy(&x, w, sizeof x);
        x = x & 0x7FFFFFFF;
        largest = x > largest ? x : largest;
      }
      int32_t lanes[kGroupLanes];
      std::memcpy(lanes, &largest, sizeof lanes);
      for (int width = kGroupLanes / 2; width > 0; width /= 2) {
        for (int l = 0; l < width; ++l) lanes[l] = std::max(lanes[l], lanes[l + width]);
      }
      maxima[j] = std::bit_cast<float>(lanes[0]);
    }
  }
};

[[gnu::target("avx512f,avx512bw")]] GroupsFit FitAvx512(const Groups& groups, const float* scales,
                                                        const float* multipliers) {
  return Loops::Fit<true>(groups, scales, multipliers);
}
[[gnu::target("avx2")]] GroupsFit FitAvx2(const Groups& groups, const float* scales,
                                          const float* multipliers) {
  return Loops::Fit<true>(groups, scales, multipliers);
}
[[gnu::target("avx512f,avx512bw")]] double ErrorAvx512(const Groups& groups, const float* scales) {
  return Loops::Fit<false>(groups, scales, nullptr).squared_error;
}
[[gnu::target("avx2")]] double ErrorAvx2(const Groups& groups, const float* scales) {
  return Loops::Fit<false>(groups, scales, nullptr).squared_error;
}
[[gnu::target("avx512f,avx512bw")]] void RoundAvx512(const Groups& groups, const float* scales,
                                                     int8_t* codes) {
  Loops::Round(groups, scales, codes);
}
[[gnu::target("avx2")]] void RoundAvx2(const Groups& groups, const float* scales, int8_t* codes) {
  Loops::Round(groups, scales, codes);
}
[[gnu::target("avx512f,avx512bw")]] void MaximaAvx512(const Groups& groups, float* maxima) {
  Loops::Maxima(groups, maxima);
}
[[gnu::target("avx2")]] void MaximaAvx2(const Groups& groups, float* maxima) {
  Loops::Maxima(groups, maxima);
}

bool HasAvx512() { return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw"); }
bool HasAvx2() { return __builtin_cpu_supports("avx2"); }

}  // namespace

GroupsFit FitGroups(const Groups& groups, const float* scales, const float* multipliers) {
  if (HasAvx512()) return FitAvx512(groups, scales, multipliers);
  if (HasAvx2()) return FitAvx2(groups, scales, multipliers);
  return Loops::Fit<true>(groups, scales, multipliers);
}

double GroupsError(const Groups& groups, const float* scales) {
  if (HasAvx512()) return ErrorAvx512(groups, scales);
  if (HasAvx2()) return ErrorAvx2(groups, scales);
  return Loops::Fit<false>(groups, scales, nullptr).squared_error;
}

void RoundGroups(const Groups& groups, const float* scales, int8_t* codes) {
  if (HasAvx512()) return RoundAvx512(groups, scales, codes);
  if (HasAvx2()) return RoundAvx2(groups, scales, codes);
  Loops::Round(groups, scales, codes);
}

void GroupMaxima(const Groups& groups, float* maxima) {
  if (HasAvx512()) return MaximaAvx512(groups, maxima);
  if (HasAvx2()) return MaximaAvx2(groups, maxima);
  Loops::Maxima(groups, maxima);
}

}  // namespace intermix
