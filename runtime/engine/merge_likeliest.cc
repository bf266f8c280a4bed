#include "runtime/engine/merge_likeliest.h"

#include <vector>

namespace intermix {
namespace {

// Whether a stands before b where a's token has the higher id. A NaN stands before every number.
bool Before(float a, float b) { return a != a ? b == b : a > b; }

}  // namespace

void MergeLikeliest(const Tensor& shards, int64_t slice_size, std::span<const int32_t> place,
                    const StepLogits& out) {
  const int64_t slices = shards.shape(0);
  const int64_t k = shards.cols();
  CHECK(shards.rank() == 4 && shards.shape(1) == 2) << shards.ToString();
  CHECK_EQ(shards.shape(2), std::ssize(place));
  CHECK_EQ(out.values.cols(), k);
  std::vector<int64_t> taken(static_cast<size_t>(slices));
  for (int64_t row = 0; row < shards.shape(2); ++row) {
    const auto values = [&](int64_t slice) {
      return static_cast<const float*>(shards.At(slice).At(0).Rows(row, row + 1).raw());
    };
    const auto columns = [&](int64_t slice) {
      return static_cast<const int32_t*>(shards.At(slice).At(1).Rows(row, row + 1).raw());
    };
    taken.assign(taken.size(), 0);
    for (int64_t i = 0; i < k; ++i) {
      int64_t best = -1;
      for (int64_t s = 0; s < slices; ++s) {
        if (taken[s] == k || columns(s)[taken[s]] < 0) continue;
        if (best < 0 || Before(values(s)[taken[s]], values(best)[taken[best]])) best = s;
      }
      CHECK_GE(best, 0) << k << " tokens were wanted of a smaller vocabulary";
      const int64_t at = taken[best]++;
      out.values.row<float>(place[row])[i] = values(best)[at];
      out.ids.row<int32_t>(place[row])[i] =
          static_cast<int32_t>(best * slice_size) + columns(best)[at];
    }
  }
}

}  // namespace intermix
