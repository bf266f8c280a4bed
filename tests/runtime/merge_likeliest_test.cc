// MergeLikeliest: the first tokens of slices, merged, are the first of the whole row.
#include "runtime/engine/merge_likeliest.h"

#include <algorithm>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/reference/reference_backend.h"
#include "tests/testing/compare.h"
#include "tests/testing/random.h"

namespace intermix {
namespace {

constexpr int64_t kRows = 8;  // one of each kind

// Rows of `vocab_size` in `slices` slices, as ranks find the first k in each; row i goes to place
// kRows - 1 - i.
void Check(int64_t vocab_size, int64_t slices, int64_t k) {
  SCOPED_TRACE(testing::Message() << k << " of " << vocab_size << " in " << slices << " slices");
  ReferenceBackend backend;
  const OwnedTensor x = RowsWithTies(kRows, vocab_size, 3);
  const int64_t slice = (vocab_size + slices - 1) / slices;
  const OwnedTensor shards = OwnedTensor::Host(DType::kI32, {slices, 2, kRows, k});
  for (int64_t s = 0; s < slices; ++s) {
    const int64_t begin = std::min(s * slice, vocab_size);
    const Tensor shard = shards.view.At(s);
    backend.TopK(x.view.Cols(begin, std::min(begin + slice, vocab_size)),
                 Tensor(shard.At(0).raw(), DType::kF32, {kRows, k}), shard.At(1));
  }
  std::vector<int32_t> place;
  for (int32_t i = 0; i < kRows; ++i) place.push_back(kRows - 1 - i);
  const OwnedTensor values = OwnedTensor::Host(DType::kF32, {kRows, k});
  const OwnedTensor ids = OwnedTensor::Host(DType::kI32, {kRows, k});
  MergeLikeliest(shards.view, slice, place, {.values = values.view, .ids = ids.view});
  for (int64_t i = 0; i < kRows; ++i) {
    const OwnedTensor row_values = OwnedTensor::Host(DType::kF32, {1, k});
    const OwnedTensor row_ids = OwnedTensor::Host(DType::kI32, {1, k});
    backend.TopK(x.view.Rows(i, i + 1), row_values.view, row_ids.view);
    EXPECT_TRUE(BitwiseEqual(values.view.Rows(place[i], place[i] + 1), row_values.view)) << i;
    EXPECT_TRUE(BitwiseEqual(ids.view.Rows(place[i], place[i] + 1), row_ids.view)) << i;
  }
}

TEST(MergeLikeliestTest, FindsTheFirstOfAllSlices) {
  for (const int64_t slices : {1, 2, 3, 8}) {
    for (const int64_t k : {1, 2, 20, 64}) Check(100, slices, k);
  }
  Check(9, 8, 9);  // some slices are empty
}

}  // namespace
}  // namespace intermix
