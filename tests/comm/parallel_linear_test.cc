// TensorGroup: what comes together from column shards equals what one rank has, bit for bit.
#include "comm/parallel_linear.h"

#include <cmath>

#include "comm/self_communicator.h"
#include "gtest/gtest.h"
#include "kernels/reference/reference_backend.h"
#include "tests/testing/compare.h"
#include "tests/testing/random.h"
#include "tests/testing/run_ranks.h"

namespace intermix {
namespace {

constexpr int64_t kCols = 48;

// One rank's way to run ops in a test.
struct TestRank {
  explicit TestRank(std::unique_ptr<Communicator> c)
      : comm(std::move(c)),
        backend(MakeReferenceBackend()),
        workspace([](size_t bytes) { return Buffer::Host(bytes); }) {}
  Execution exec() { return {.backend = *backend, .workspace = workspace}; }
  // This rank's contiguous columns of `whole`.
  Tensor ColumnShard(const Tensor& whole) {
    const Slice cols = Part(whole.cols(), comm->size(), comm->rank());
    const Tensor shard = workspace.Take(whole.dtype(), {whole.rows(), cols.size()});
    for (int64_t r = 0; r < whole.rows(); ++r) {
      for (int64_t c = 0; c < cols.size(); ++c) {
        shard.row<BFloat16>(r)[c] = whole.row<BFloat16>(r)[cols.begin + c];
      }
    }
    return shard;
  }

  std::unique_ptr<Communicator> comm;
  std::unique_ptr<Backend> backend;
  Workspace workspace;
};

class TensorGroupTest : public testing::TestWithParam<std::tuple<int, int64_t, TokenPlacement>> {};

TEST_P(TensorGroupTest, AllColumnsQuantisesLikeOneRank) {
  const auto [size, tokens, placement] = GetParam();
  const OwnedTensor whole = RandomTensor(DType::kBF16, {tokens, kCols}, 11);
  if (tokens > 2) whole.view.row<BFloat16>(2)[kCols - 1] = BFloat16(std::nanf(""));
  for (bool quantized : {false, true}) {
    TestRank single(MakeSelfCommunicator());
    const Activations expected =
        TensorGroup(*single.comm).AllColumns(single.exec(), placement, whole.view, quantized);
    RunRanks(size, [&, p = placement](std::unique_ptr<Communicator> comm) {
      TestRank rank(std::move(comm));
      const Activations actual =
          TensorGroup(*rank.comm)
              .AllColumns(rank.exec(), p, rank.ColumnShard(whole.view), quantized);
      EXPECT_TRUE(BitwiseEqual(actual.values, expected.values));
      if (quantized) {
        EXPECT_TRUE(BitwiseEqual(actual.scales, expected.scales));
      }
    });
  }
}

TEST_P(TensorGroupTest, RowsGoToTheResidualAndBack) {
  const auto [size, tokens, placement] = GetParam();
  const OwnedTensor whole = RandomTensor(DType::kBF16, {tokens, kCols}, 12);
  const OwnedTensor wide = RandomTensor(DType::kF32, {tokens, kCols}, 13);
  RunRanks(size, [&, n = tokens, p = placement](std::unique_ptr<Communicator> comm) {
    TestRank rank(std::move(comm));
    const TensorGroup group(*rank.comm);
    const TokenRows rows = group.Place({n}, 0, p);
    const Tensor mine = group.ToResidual(rank.exec(), rows, rank.ColumnShard(whole.view));
    EXPECT_TRUE(BitwiseEqual(mine, whole.view.Rows(rows.mine.begin, rows.mine.end)));

    const Activations all = group.AllTokens(
        rank.exec(), rows, {.values = wide.view.Rows(rows.mine.begin, rows.mine.end)});
    EXPECT_TRUE(BitwiseEqual(all.values, wide.view));
  });
}

INSTANTIATE_TEST_SUITE_P(Sizes, TensorGroupTest,
                         testing::Combine(testing::Values(1, 2, 3, 4), testing::Values(0, 1, 3, 17),
                                          testing::Values(TokenPlacement::kReplicated,
                                                          TokenPlacement::kSharded)));

}  // namespace
}  // namespace intermix
