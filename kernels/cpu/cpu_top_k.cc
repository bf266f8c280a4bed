// CpuBackend: the first elements of each row. A sorted list of the best so far: of a long row few
// elements pass the test against its last entry, and a vector loop finds the next one that does.
#include <limits>

#include "kernels/cpu/cpu_backend_class.h"

namespace intermix::cpu {
namespace {

// A list of `k` places, the first `count` of them taken, in the order of Backend::TopK.
struct BestList {
  float* values;
  int32_t* columns;
  int64_t k;
  int64_t count = 0;

  // Whether nothing that comes later can enter.
  bool closed() const { return count == k && values[k - 1] != values[k - 1]; }

  // Columns are offered in ascending order, so that equal values stand in the right one.
  void Offer(float value, int32_t column) {
    const auto before = [value](float other) {
      return value != value ? other == other : value > other;
    };
    int64_t at = count < k ? count++ : k - 1;
    for (; at > 0 && before(values[at - 1]); --at) {
      values[at] = values[at - 1];
      columns[at] = columns[at - 1];
    }
    values[at] = value;
    columns[at] = column;
  }
};

}  // namespace

void CpuBackend::TopK(const Tensor& x, Tensor values, Tensor columns) {
  const int64_t k = values.cols();
  CHECK_EQ(columns.cols(), k);
  CHECK(k > 0 && k <= kMaxTopK) << "k " << k;
  CHECK_EQ(values.rows(), x.rows());
  CHECK_EQ(columns.rows(), x.rows());
  ForRows(x.rows(), x.cols(), [&](int64_t m, int) {
    const float* row = x.row<float>(m);
    const int64_t n = x.cols();
    BestList best = {.values = values.row<float>(m), .columns = columns.row<int32_t>(m), .k = k};
    int64_t i = 0;
    for (; i < n && i < k; ++i) best.Offer(row[i], static_cast<int32_t>(i));
    for (; i < n && !best.closed(); ++i) {
      i = kernels_.rows.next_above(row, i, n, best.values[k - 1]);
      if (i < n) best.Offer(row[i], static_cast<int32_t>(i));
    }
    for (int64_t empty = best.count; empty < k; ++empty) {
      best.values[empty] = -std::numeric_limits<float>::infinity();
      best.columns[empty] = -1;
    }
  });
}

}  // namespace intermix::cpu
