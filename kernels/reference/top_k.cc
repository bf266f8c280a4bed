// The first elements of each row: what choosing a token needs of its logits.
#include <algorithm>
#include <limits>
#include <numeric>
#include <vector>

#include "kernels/reference/reference_backend.h"

namespace intermix {

void ReferenceBackend::TopK(const Tensor& x, Tensor values, Tensor columns) {
  const int64_t k = values.cols();
  CHECK_EQ(columns.cols(), k);
  CHECK_LE(k, kMaxTopK);
  CHECK_EQ(values.rows(), x.rows());
  CHECK_EQ(columns.rows(), x.rows());
  std::vector<int32_t> order(static_cast<size_t>(x.cols()));
  for (int64_t m = 0; m < x.rows(); ++m) {
    const float* row = x.row<float>(m);
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [row](int32_t a, int32_t b) {
      const bool nan_a = row[a] != row[a];
      const bool nan_b = row[b] != row[b];
      return nan_a || nan_b ? nan_a && !nan_b : row[a] > row[b];
    });
    for (int64_t i = 0; i < k; ++i) {
      const bool exists = i < x.cols();
      columns.row<int32_t>(m)[i] = exists ? order[i] : -1;
      values.row<float>(m)[i] = exists ? row[order[i]] : -std::numeric_limits<float>::infinity();
    }
  }
}

}  // namespace intermix
