// Whole numbers that are not negative: how many pieces, and up to which multiple.
#pragma once

#include <type_traits>

namespace intermix {

template <typename T>
constexpr T CeilDiv(T a, std::type_identity_t<T> b) {
  return (a + b - 1) / b;
}

template <typename T>
constexpr T RoundUp(T value, std::type_identity_t<T> multiple) {
  return CeilDiv(value, multiple) * multiple;
}

}  // namespace intermix
