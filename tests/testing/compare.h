// Comparison of tensors for tests. Thread-safe.
#pragma once

#include "gtest/gtest.h"
#include "kernels/core/tensor.h"

namespace intermix {

// Same dtype, shape and bits, strides aside; any NaN equals any NaN (their payload is the
// processor's business), -0 does not equal +0. A failure tells how many elements differ and shows
// the first of them.   EXPECT_TRUE(BitwiseEqual(actual, expected));
::testing::AssertionResult BitwiseEqual(const Tensor& actual, const Tensor& expected);

// The element at [row, col] of a float or integer matrix (or [row] of a vector), as a double.
double ElementAt(const Tensor& tensor, int64_t row, int64_t col = 0);

}  // namespace intermix
