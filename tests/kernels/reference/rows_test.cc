// ReferenceBackend's row ops: quantisation and norm against double, moves against the definition.
#include <cmath>
#include <limits>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/reference/reference_backend.h"
#include "tests/testing/compare.h"
#include "tests/testing/random.h"

namespace intermix {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

OwnedTensor Vector(const std::vector<float>& values) {
  OwnedTensor t = OwnedTensor::Host(DType::kF32, {static_cast<int64_t>(values.size())});
  std::copy(values.begin(), values.end(), t.view.data<float>());
  return t;
}

OwnedActivations Int8Rows(int64_t tokens, int64_t k) {
  return {.values = OwnedTensor::Host(DType::kI8, {tokens, k}),
          .scales = OwnedTensor::Host(DType::kF32, {tokens})};
}

class ReferenceRowsTest : public ::testing::Test {
 protected:
  // amax, then codes and scale, of one float32 row.
  OwnedActivations Quantize(const std::vector<float>& row) {
    const int64_t k = static_cast<int64_t>(row.size());
    OwnedTensor x = OwnedTensor::Host(DType::kF32, {1, k});
    std::copy(row.begin(), row.end(), x.view.data<float>());
    OwnedTensor amax = OwnedTensor::Host(DType::kF32, {1});
    backend_.RowAbsMax(x.view, amax.view);
    OwnedActivations out = Int8Rows(1, k);
    backend_.QuantizeRows(x.view, amax.view, out.view());
    return out;
  }
  ReferenceBackend backend_;
};

TEST_F(ReferenceRowsTest, CodesRoundTheRowOverItsLargestMagnitude) {
  const OwnedActivations out = Quantize({-254.0f, 127.0f, 1.0f, 3.0f, -5.0f, 0.0f});
  EXPECT_EQ(out.scales.view.data<float>()[0], 2.0f);
  const std::vector<int> expected = {-127, 64, 0, 2, -2, 0};  // halves go to even
  for (int k = 0; k < 6; ++k) EXPECT_EQ(out.values.view.data<int8_t>()[k], expected[k]) << k;
}

TEST_F(ReferenceRowsTest, CodesStayWithinHalfAStepOfTheRow) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    const OwnedTensor x = RandomTensor(dtype, {9, 333}, 1, 3.0);
    OwnedTensor amax = OwnedTensor::Host(DType::kF32, {9});
    backend_.RowAbsMax(x.view, amax.view);
    const OwnedActivations out = Int8Rows(9, 333);
    backend_.QuantizeRows(x.view, amax.view, out.view());
    const OwnedActivations own = Int8Rows(9, 333);
    backend_.QuantizeRows(x.view, Tensor(), own.view());
    EXPECT_TRUE(BitwiseEqual(own.values.view, out.values.view));
    EXPECT_TRUE(BitwiseEqual(own.scales.view, out.scales.view));
    for (int64_t m = 0; m < 9; ++m) {
      double max = 0.0;
      for (int64_t k = 0; k < 333; ++k) max = std::max(max, std::fabs(ElementAt(x.view, m, k)));
      EXPECT_EQ(ElementAt(amax.view, m), max);
      EXPECT_NEAR(ElementAt(out.scales.view, m), max / 127.0, 1e-7 * max);
      for (int64_t k = 0; k < 333; ++k) {
        EXPECT_NEAR(ElementAt(out.values.view, m, k), ElementAt(x.view, m, k) * 127.0 / max,
                    0.5001);
      }
    }
  }
}

TEST_F(ReferenceRowsTest, ZeroAndTinyRowsHaveScaleZero) {
  for (const float value : {0.0f, -0.0f, 1e-40f, 0x1.fp-101f}) {
    const OwnedActivations out = Quantize({value, -value, 0.0f});
    EXPECT_EQ(out.scales.view.data<float>()[0], 0.0f) << value;
    for (int k = 0; k < 3; ++k) EXPECT_EQ(out.values.view.data<int8_t>()[k], 0);
  }
  const OwnedActivations least = Quantize({0x1p-100f, 0.0f});
  EXPECT_EQ(least.values.view.data<int8_t>()[0], 127);
  EXPECT_GT(least.scales.view.data<float>()[0], 0.0f);
}

TEST_F(ReferenceRowsTest, TheLargestFloatIsStillQuantised) {
  const float max = std::numeric_limits<float>::max();
  const OwnedActivations out = Quantize({max, -max, max / 2});
  EXPECT_EQ(out.values.view.data<int8_t>()[0], 127);
  EXPECT_EQ(out.values.view.data<int8_t>()[1], -127);
  EXPECT_TRUE(std::isfinite(out.scales.view.data<float>()[0]));
}

TEST_F(ReferenceRowsTest, NanAndInfinityPoisonTheirRowOnly) {
  for (const float bad : {std::nanf(""), kInfinity, -kInfinity}) {
    OwnedTensor x = RandomTensor(DType::kF32, {3, 20}, 2);
    x.view.row<float>(1)[7] = bad;
    OwnedTensor amax = OwnedTensor::Host(DType::kF32, {3});
    backend_.RowAbsMax(x.view, amax.view);
    EXPECT_EQ(amax.view.data<float>()[1], kInfinity);
    const OwnedActivations out = Int8Rows(3, 20);
    backend_.QuantizeRows(x.view, amax.view, out.view());
    EXPECT_TRUE(std::isnan(out.scales.view.data<float>()[1]));
    for (int k = 0; k < 20; ++k) EXPECT_EQ(out.values.view.row<int8_t>(1)[k], 0);
    for (const int64_t m : {0, 2}) {
      EXPECT_TRUE(std::isfinite(out.scales.view.data<float>()[m]));
      EXPECT_NE(out.values.view.row<int8_t>(m)[0], 0);
    }
  }
}

TEST_F(ReferenceRowsTest, AmaxOfTheFullRowMayExceedTheShards) {
  const OwnedTensor x = RandomTensor(DType::kBF16, {4, 64}, 3);
  OwnedTensor amax = OwnedTensor::Host(DType::kF32, {4});
  backend_.RowAbsMax(x.view, amax.view);
  const OwnedActivations whole = Int8Rows(4, 64);
  backend_.QuantizeRows(x.view, amax.view, whole.view());
  const OwnedActivations shard = Int8Rows(4, 16);
  backend_.QuantizeRows(x.view.Cols(16, 32), amax.view, shard.view());
  EXPECT_TRUE(BitwiseEqual(shard.values.view, whole.values.view.Cols(16, 32)));
  EXPECT_TRUE(BitwiseEqual(shard.scales.view, whole.scales.view));
}

TEST_F(ReferenceRowsTest, FloatRowsAreOnlyWidened) {
  const OwnedTensor x = RandomTensor(DType::kBF16, {2, 40}, 4);
  const OwnedActivations out{.values = OwnedTensor::Host(DType::kF32, {2, 40}), .scales = {}};
  backend_.QuantizeRows(x.view, Tensor(), out.view());
  for (int64_t m = 0; m < 2; ++m) {
    for (int64_t k = 0; k < 40; ++k) {
      EXPECT_EQ(ElementAt(out.values.view, m, k), ElementAt(x.view, m, k));
    }
  }
}

TEST_F(ReferenceRowsTest, RmsNormFollowsDouble) {
  constexpr float kEps = 1e-5f;
  const OwnedTensor x = RandomTensor(DType::kF32, {5, 300}, 5, 7.0);
  const OwnedTensor weight = RandomTensor(DType::kF32, {300}, 6);
  const OwnedTensor normed = OwnedTensor::Host(DType::kF32, {5, 300});
  const OwnedActivations out = Int8Rows(5, 300);
  backend_.RmsNorm(x.view, {.weight = weight.view, .eps = kEps},
                   {.values = normed.view, .activations = out.view()});
  for (int64_t m = 0; m < 5; ++m) {
    double mean_square = 0.0;
    for (int64_t k = 0; k < 300; ++k) mean_square += std::pow(ElementAt(x.view, m, k), 2) / 300;
    for (int64_t k = 0; k < 300; ++k) {
      const double expected =
          ElementAt(x.view, m, k) / std::sqrt(mean_square + kEps) * ElementAt(weight.view, k);
      EXPECT_NEAR(ElementAt(normed.view, m, k), expected, 1e-6 * std::fabs(expected) + 1e-12);
    }
  }
  OwnedTensor amax = OwnedTensor::Host(DType::kF32, {5});
  backend_.RowAbsMax(normed.view, amax.view);
  const OwnedActivations apart = Int8Rows(5, 300);
  backend_.QuantizeRows(normed.view, amax.view, apart.view());
  EXPECT_TRUE(BitwiseEqual(out.values.view, apart.values.view));
  EXPECT_TRUE(BitwiseEqual(out.scales.view, apart.scales.view));
}

TEST_F(ReferenceRowsTest, RmsNormOfAZeroOrNanRow) {
  OwnedTensor x = RandomTensor(DType::kF32, {3, 64}, 7);
  std::fill_n(x.view.row<float>(0), 64, 0.0f);
  x.view.row<float>(1)[3] = std::nanf("");
  const OwnedTensor weight = RandomTensor(DType::kF32, {64}, 8);
  OwnedTensor normed = OwnedTensor::Host(DType::kF32, {3, 64});
  const OwnedActivations out = Int8Rows(3, 64);
  const Norm norm = {.weight = weight.view, .eps = 1e-6f};
  backend_.RmsNorm(x.view, norm, {.values = normed.view, .activations = out.view()});
  EXPECT_EQ(out.scales.view.data<float>()[0], 0.0f);
  EXPECT_TRUE(std::isnan(out.scales.view.data<float>()[1]));
  EXPECT_GT(out.scales.view.data<float>()[2], 0.0f);
  const Activations same{.values = normed.view, .scales = {}};  // float32 rows: in place
  backend_.RmsNorm(x.view, norm, {.values = normed.view, .activations = same});
  EXPECT_EQ(normed.view.row<float>(0)[5], 0.0f);
}

TEST_F(ReferenceRowsTest, AddRmsNormAddsOnceInFloatAndNormalisesTheSum) {
  const OwnedTensor residual = RandomTensor(DType::kF32, {3, 17}, 9);
  const OwnedTensor before = RandomTensor(DType::kF32, {3, 17}, 9);
  const OwnedTensor delta = RandomTensor(DType::kBF16, {3, 17}, 10);
  const OwnedTensor weight = RandomTensor(DType::kF32, {17}, 11);
  const Norm norm = {.weight = weight.view, .eps = 1e-5f};
  const OwnedTensor normed = OwnedTensor::Host(DType::kF32, {3, 17});
  const OwnedActivations out = Int8Rows(3, 17);
  backend_.AddRmsNorm({.rows = delta.view}, residual.view, norm,
                      {.values = normed.view, .activations = out.view()});
  for (int64_t m = 0; m < 3; ++m) {
    for (int64_t k = 0; k < 17; ++k) {
      EXPECT_EQ(residual.view.row<float>(m)[k],
                static_cast<float>(ElementAt(before.view, m, k) + ElementAt(delta.view, m, k)));
    }
  }
  const OwnedTensor apart = OwnedTensor::Host(DType::kF32, {3, 17});
  const OwnedActivations codes = Int8Rows(3, 17);
  backend_.RmsNorm(residual.view, norm, {.values = apart.view, .activations = codes.view()});
  EXPECT_TRUE(BitwiseEqual(normed.view, apart.view));
  EXPECT_TRUE(BitwiseEqual(out.values.view, codes.values.view));
  EXPECT_TRUE(BitwiseEqual(out.scales.view, codes.scales.view));
}

TEST_F(ReferenceRowsTest, EmbedAndGatherPickRows) {
  const OwnedTensor table = RandomTensor(DType::kBF16, {11, 6}, 11);
  const OwnedTensor ids = RandomInts({5}, 0, 10, 12);
  const OwnedTensor embedded = OwnedTensor::Host(DType::kF32, {5, 6});
  const OwnedTensor gathered = OwnedTensor::Host(DType::kBF16, {5, 6});
  backend_.EmbedRows(ids.view, table.view, embedded.view);
  backend_.GatherRows(table.view, ids.view, gathered.view);
  const OwnedTensor scales = Vector({0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10});
  const OwnedTensor picked = OwnedTensor::Host(DType::kF32, {5});
  backend_.GatherRows(scales.view, ids.view, picked.view);
  for (int64_t i = 0; i < 5; ++i) {
    const int32_t id = ids.view.data<int32_t>()[i];
    EXPECT_EQ(picked.view.data<float>()[i], static_cast<float>(id));
    for (int64_t k = 0; k < 6; ++k) {
      EXPECT_EQ(ElementAt(embedded.view, i, k), ElementAt(table.view, id, k));
      EXPECT_EQ(ElementAt(gathered.view, i, k), ElementAt(table.view, id, k));
    }
  }
}

TEST_F(ReferenceRowsTest, GatherOfNoRowGivesZeros) {
  const OwnedTensor table = RandomTensor(DType::kF32, {3, 4}, 14);
  const OwnedTensor index = OwnedTensor::Host(DType::kI32, {2});
  index.view.data<int32_t>()[0] = -1;
  index.view.data<int32_t>()[1] = 2;
  const OwnedTensor wide = RandomTensor(DType::kF32, {2, 9}, 15);
  const Tensor strided = wide.view.Cols(2, 6);
  backend_.GatherRows(table.view, index.view, strided);
  const OwnedTensor zeros = OwnedTensor::Host(DType::kF32, {1, 4});
  EXPECT_TRUE(BitwiseEqual(strided.Rows(0, 1), zeros.view));
  EXPECT_TRUE(BitwiseEqual(strided.Rows(1, 2), table.view.Rows(2, 3)));
  backend_.Zero(table.view);
  EXPECT_TRUE(BitwiseEqual(table.view.Rows(1, 2), zeros.view));
}

TEST_F(ReferenceRowsTest, MergeColumnsPutsShardsSideBySide) {
  const OwnedTensor shards = RandomTensor(DType::kBF16, {3, 4, 5}, 13);
  const OwnedTensor out = OwnedTensor::Host(DType::kBF16, {4, 15});
  backend_.MergeColumns(shards.view, out.view);
  for (int64_t s = 0; s < 3; ++s) {
    EXPECT_TRUE(BitwiseEqual(out.view.Cols(5 * s, 5 * s + 5), shards.view.At(s)));
  }
}

TEST_F(ReferenceRowsTest, TopKPutsNansFirstAndEqualNumbersByColumn) {
  const float nan = std::nanf("");
  OwnedTensor x = OwnedTensor::Host(DType::kF32, {2, 7});
  const std::vector<float> rows[2] = {{-1.0f, 0.0f, 2.0f, -0.0f, 2.0f, -kInfinity, 0.0f},
                                      {-kInfinity, kInfinity, nan, 5.0f, nan, -nan, kInfinity}};
  for (int m = 0; m < 2; ++m) std::copy(rows[m].begin(), rows[m].end(), x.view.row<float>(m));
  const OwnedTensor values = OwnedTensor::Host(DType::kF32, {2, 9});
  const OwnedTensor columns = OwnedTensor::Host(DType::kI32, {2, 9});
  backend_.TopK(x.view, values.view, columns.view);
  const std::vector<int> expected[2] = {{2, 4, 1, 3, 6, 0, 5, -1, -1},
                                        {2, 4, 5, 1, 6, 3, 0, -1, -1}};
  for (int m = 0; m < 2; ++m) {
    for (int i = 0; i < 9; ++i) {
      const int column = columns.view.row<int32_t>(m)[i];
      EXPECT_EQ(column, expected[m][i]) << m << ", " << i;
      const float value = values.view.row<float>(m)[i];
      if (m == 1 && i < 3) {
        EXPECT_TRUE(std::isnan(value)) << i;
      } else {
        EXPECT_EQ(value, column < 0 ? -kInfinity : rows[m][column]) << m << ", " << i;
      }
    }
  }
}

}  // namespace
}  // namespace intermix
