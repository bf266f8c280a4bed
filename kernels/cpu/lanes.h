// What the three lane types share: LanesScalar, LanesAvx2 and LanesAvx512 hold the 16 float lanes
// of kernels/core/lane_math.h and offer the same functions (lanes_scalar.h says what each one
// means). row_kernels_inl.h and its like are templates over one of them.
//
// Files that include lanes_avx2.h or lanes_avx512.h are compiled for that instruction set. They may
// not call inline functions that baseline code calls too: the linker keeps one copy, maybe theirs.
#pragma once

#include <cstdint>
#include <type_traits>
#include <utility>

namespace intermix::cpu {

// How many of the 16 elements at an address exist.
struct Full {};
struct Tail {
  int count;  // 1 .. 15
};

// Calls f(i, Full()) for each whole vector of 16 elements in [0, n), then f(i, Tail{rest}).
template <typename F>
[[gnu::always_inline]] inline void ForLanes(int64_t n, F f) {
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) f(i, Full());
  if (i < n) f(i, Tail{static_cast<int>(n - i)});
}

// Calls f(0), f(1), ... f(N - 1) with constants. Written out by the front end, unlike a loop, so
// that arrays indexed by them live in registers.
template <int N, typename F>
[[gnu::always_inline]] inline void Unroll(F f) {
  [&]<int... I>(std::integer_sequence<int, I...>) { (f(std::integral_constant<int, I>()), ...); }
  (std::make_integer_sequence<int, N>());
}

// out[r * stride + c] = sums[r][c].Sum() * factor, one after the other.
template <typename V, int R, int C>
void SumEach(const V (&sums)[R][C], float factor, float* out, int64_t stride) {
  for (int r = 0; r < R; ++r) {
    for (int c = 0; c < C; ++c) out[r * stride + c] = sums[r][c].Sum() * factor;
  }
}

// The constants of LaneExp, in the order of its operations.
inline constexpr float kLog2e = 1.44269504f;
inline constexpr float kLn2High = 0.693359375f;
inline constexpr float kLn2Low = -2.12194440e-4f;
inline constexpr float kExpRound = 12582912.0f;
inline constexpr float kExpUnderflow = -87.3f;
inline constexpr float kExpOverflow = 88.7f;
inline constexpr float kExpPoly[] = {1.9875691500e-4f, 1.3981999507e-3f, 8.3334519073e-3f,
                                     4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f};

}  // namespace intermix::cpu
