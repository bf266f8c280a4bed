// Rewriting an MLP, down(silu(gate x) * up x), without changing what it computes: its hidden units
// take another order, up becomes larger by a power of two and down smaller by it. Not a bit of the
// result depends on that where sums are exact, and the last ones do where they are not.
// Pure functions; any thread.
#pragma once

#include <cstdint>
#include <random>
#include <vector>

#include "kernels/core/tensor.h"

namespace intermix {

struct ExpertRewrite {
  std::vector<int64_t> order;  // hidden unit i is what unit order[i] was
  int exponent = 0;            // up is multiplied by 2^exponent, down by 2^-exponent
};

// Draws one for an MLP of `intermediate` hidden units. Units that share a group of 32, 64 or 128
// still do, so that quantising groups of them gives the same codes and scales.
ExpertRewrite DrawExpertRewrite(int64_t intermediate, std::mt19937_64& random);

// Rows, or columns, `order` of `source` [n, k] into `out` of its dtype and shape.
void GatherRows(const Tensor& source, const std::vector<int64_t>& order, const Tensor& out);
void GatherCols(const Tensor& source, const std::vector<int64_t>& order, const Tensor& out);

// Which powers of two `weight` (float32, bfloat16, float16) can be multiplied by without rounding:
// 2^smallest to 2^largest. Only 2^0 where it holds subnormals, infinities or NaN.
struct ExponentRange {
  int smallest = 0;
  int largest = 0;
};
ExponentRange ExactScalings(const Tensor& weight);

// Multiplies `weight` by 2^exponent, which ExactScalings allows.
void ScaleByPowerOfTwo(const Tensor& weight, int exponent);

}  // namespace intermix
