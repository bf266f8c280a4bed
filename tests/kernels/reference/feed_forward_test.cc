// ReferenceBackend's gated layer, router and expert sum against double.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/reference/reference_backend.h"
#include "tests/testing/compare.h"
#include "tests/testing/random.h"

namespace intermix {
namespace {

struct Routed {
  OwnedTensor experts;
  OwnedTensor weights;
};

Routed Route(const Tensor& x, const Tensor& gate, int64_t top_k) {
  Routed result{.experts = OwnedTensor::Host(DType::kI32, {x.rows(), top_k}),
                .weights = OwnedTensor::Host(DType::kF32, {x.rows(), top_k})};
  ReferenceBackend().Route(x, gate, result.experts.view, result.weights.view);
  return result;
}

// One token whose logits are exactly `logits`.
Routed RouteLogits(const std::vector<float>& logits, int64_t top_k) {
  OwnedTensor x = OwnedTensor::Host(DType::kF32, {1, 4});
  x.view.data<float>()[0] = 1.0f;
  OwnedTensor gate = OwnedTensor::Host(DType::kF32, {static_cast<int64_t>(logits.size()), 4});
  for (size_t e = 0; e < logits.size(); ++e) {
    gate.view.row<float>(static_cast<int64_t>(e))[0] = logits[e];
  }
  return Route(x.view, gate.view, top_k);
}

std::vector<int32_t> Experts(const Routed& routed) {
  const int32_t* begin = routed.experts.view.data<int32_t>();
  return {begin, begin + routed.experts.view.num_elements()};
}

TEST(ReferenceRouteTest, FollowsSoftmaxOverTheLargestLogits) {
  const OwnedTensor x = RandomTensor(DType::kF32, {20, 96}, 1);
  const OwnedTensor gate = RandomTensor(DType::kF32, {8, 96}, 2, 0.1);
  const Routed routed = Route(x.view, gate.view, 3);
  for (int64_t m = 0; m < 20; ++m) {
    std::vector<double> logits(8, 0.0);
    for (int64_t e = 0; e < 8; ++e) {
      for (int64_t k = 0; k < 96; ++k) {
        logits[e] += ElementAt(x.view, m, k) * ElementAt(gate.view, e, k);
      }
    }
    std::vector<int32_t> order(8);
    std::iota(order.begin(), order.end(), 0);
    std::sort(order.begin(), order.end(), [&](int a, int b) { return logits[a] > logits[b]; });
    double sum = 0.0;
    for (int i = 0; i < 3; ++i) sum += std::exp(logits[order[i]]);
    for (int i = 0; i < 3; ++i) {
      EXPECT_EQ(routed.experts.view.row<int32_t>(m)[i], order[i]);
      EXPECT_NEAR(routed.weights.view.row<float>(m)[i], std::exp(logits[order[i]]) / sum, 1e-6);
    }
  }
}

TEST(ReferenceRouteTest, TiesGoToTheLowestExpert) {
  EXPECT_EQ(Experts(RouteLogits({1, 3, 3, 2, 3}, 2)), (std::vector<int32_t>{1, 2}));
  EXPECT_EQ(Experts(RouteLogits({0, 0, 0, 0}, 2)), (std::vector<int32_t>{0, 1}));
  EXPECT_EQ(Experts(RouteLogits({2, 5, 2, 2}, 3)), (std::vector<int32_t>{1, 0, 2}));
  EXPECT_EQ(Experts(RouteLogits({-0.0f, 0.0f}, 1)), (std::vector<int32_t>{0}));
  const Routed even = RouteLogits({0, 0, 0, 0}, 2);
  EXPECT_EQ(even.weights.view.data<float>()[0], 0.5f);
  EXPECT_EQ(even.weights.view.data<float>()[1], 0.5f);
}

TEST(ReferenceRouteTest, ANanRowChoosesTheFirstExpertsAndNoOtherRowChanges) {
  OwnedTensor x = RandomTensor(DType::kF32, {3, 32}, 3);
  const OwnedTensor gate = RandomTensor(DType::kF32, {8, 32}, 4);
  const Routed clean = Route(x.view, gate.view, 2);
  x.view.row<float>(1)[30] = std::nanf("");
  const Routed routed = Route(x.view, gate.view, 2);
  for (int i = 0; i < 2; ++i) {
    EXPECT_EQ(routed.experts.view.row<int32_t>(1)[i], i);
    EXPECT_TRUE(std::isnan(routed.weights.view.row<float>(1)[i]));
  }
  for (const int64_t m : {0, 2}) {
    EXPECT_TRUE(
        BitwiseEqual(routed.experts.view.Rows(m, m + 1), clean.experts.view.Rows(m, m + 1)));
    EXPECT_TRUE(
        BitwiseEqual(routed.weights.view.Rows(m, m + 1), clean.weights.view.Rows(m, m + 1)));
  }
}

TEST(ReferenceRouteTest, ALogitFarBelowTheOthersHasWeightZero) {
  const Routed routed = RouteLogits({-200.0f, 0.0f, -300.0f}, 2);
  EXPECT_EQ(Experts(routed), (std::vector<int32_t>{1, 0}));
  EXPECT_EQ(routed.weights.view.data<float>()[0], 1.0f);
  EXPECT_EQ(routed.weights.view.data<float>()[1], 0.0f);
}

QuantizedWeight Unquantized(const Tensor& rows) {
  return {.format = {.scheme = Scheme::kNone}, .n = rows.rows(), .k = rows.cols(), .codes = rows};
}

TEST(ReferenceGatedGemmTest, FollowsDouble) {
  const OwnedTensor x = RandomTensor(DType::kF32, {6, 24}, 5);
  const OwnedTensor gate = RandomTensor(DType::kF32, {35, 24}, 6);
  const OwnedTensor up = RandomTensor(DType::kF32, {35, 24}, 7);
  const OwnedTensor hidden = OwnedTensor::Host(DType::kBF16, {6, 35});
  ReferenceBackend backend;
  const auto packed = backend.PrepackGated(Unquantized(gate.view), Unquantized(up.view));
  ASSERT_TRUE(packed.ok()) << packed.status();
  const PackedWeight* const weight = packed->get();
  backend.GatedGemm({.values = x.view, .scales = {}}, {&weight, 1}, Tensor(), hidden.view);
  const auto dot = [&](const Tensor& w, int64_t m, int64_t n) {
    double sum = 0.0;
    for (int64_t k = 0; k < 24; ++k) sum += ElementAt(x.view, m, k) * ElementAt(w, n, k);
    return sum;
  };
  for (int64_t m = 0; m < 6; ++m) {
    for (int64_t i = 0; i < 35; ++i) {
      const double g = dot(gate.view, m, i);
      const double expected = g / (1.0 + std::exp(-g)) * dot(up.view, m, i);
      EXPECT_NEAR(ElementAt(hidden.view, m, i), expected, std::fabs(expected) * 0x1.01p-8 + 1e-5);
    }
  }
}

TEST(ReferenceGatedGemmTest, FarNegativeGatesGiveZeroNotNan) {
  OwnedTensor one = OwnedTensor::Host(DType::kF32, {1, 1});
  OwnedTensor gate = OwnedTensor::Host(DType::kF32, {1, 1});
  one.view.data<float>()[0] = 1.0f;
  gate.view.data<float>()[0] = -1e30f;
  const OwnedTensor hidden = RandomTensor(DType::kBF16, {1, 1}, 8);
  ReferenceBackend backend;
  const auto packed = backend.PrepackGated(Unquantized(gate.view), Unquantized(one.view));
  const PackedWeight* const weight = packed->get();
  backend.GatedGemm({.values = one.view, .scales = {}}, {&weight, 1}, Tensor(), hidden.view);
  EXPECT_EQ(ElementAt(hidden.view, 0, 0), 0.0);
}

TEST(ReferenceSortTest, OrdersSlotsByExpertThenToken) {
  const OwnedTensor experts = RandomInts({9, 2}, 0, 7, 10);
  const OwnedTensor token_of_row = OwnedTensor::Host(DType::kI32, {18});
  const OwnedTensor row_of_slot = OwnedTensor::Host(DType::kI32, {18});
  const OwnedTensor row_offsets = OwnedTensor::Host(DType::kI32, {4});
  ReferenceBackend backend;
  backend.SortByExpert(experts.view, 3, {},
                       {.token_of_row = token_of_row.view,
                        .row_of_slot = row_of_slot.view,
                        .row_offsets = row_offsets.view});
  int32_t row = 0;
  for (int32_t e = 0; e < 3; ++e) {  // experts 3, 4 and 5
    EXPECT_EQ(row_offsets.view.data<int32_t>()[e], row);
    for (int32_t slot = 0; slot < 18; ++slot) {
      if (experts.view.data<int32_t>()[slot] != 3 + e) continue;
      EXPECT_EQ(row_of_slot.view.data<int32_t>()[slot], row);
      EXPECT_EQ(token_of_row.view.data<int32_t>()[row], slot / 2);
      ++row;
    }
  }
  EXPECT_EQ(row_offsets.view.data<int32_t>()[3], row);
  ASSERT_LT(row, 18);
  for (int32_t slot = 0; slot < 18; ++slot) {
    const int32_t expert = experts.view.data<int32_t>()[slot];
    const bool is_ordered = expert >= 3 && expert <= 5;
    EXPECT_EQ(row_of_slot.view.data<int32_t>()[slot] == -1, !is_ordered);
    EXPECT_TRUE(slot < row || token_of_row.view.data<int32_t>()[slot] == 0);
  }
  const OwnedTensor totals = OwnedTensor::Host(DType::kI32, {3});
  totals.view.data<int32_t>()[1] = -1;
  backend.AddRowCounts(row_offsets.view, totals.view);
  const int32_t* offsets = row_offsets.view.data<int32_t>();
  EXPECT_EQ(totals.view.data<int32_t>()[0], offsets[1] - offsets[0]);
  EXPECT_EQ(totals.view.data<int32_t>()[1], offsets[2] - offsets[1] - 1);
}

TEST(ReferenceSortTest, BringsRowsAndCountsThem) {
  const OwnedTensor experts = RandomInts({4, 2}, 0, 2, 10);
  const OwnedTensor x = RandomInts({4, 3}, -99, 99, 11);
  const OwnedTensor scales = RandomTensor(DType::kF32, {4}, 12);
  const OwnedTensor ints = OwnedTensor::Host(DType::kI32, {8 + 8 + 3 + 2});
  const auto part = [&](int64_t begin, int64_t end) { return ints.view.Rows(begin, end); };
  const OwnedTensor rows = OwnedTensor::Host(DType::kI32, {8, 3});
  const OwnedTensor row_scales = OwnedTensor::Host(DType::kF32, {8});
  ReferenceBackend backend;
  for (int32_t times = 1; times <= 2; ++times) {
    backend.SortByExpert(experts.view, 1, {.values = x.view, .scales = scales.view},
                         {.token_of_row = part(0, 8),
                          .row_of_slot = part(8, 16),
                          .row_offsets = part(16, 19),
                          .totals = part(19, 21),
                          .rows = {.values = rows.view, .scales = row_scales.view}});
    int32_t counts[2] = {};
    for (int32_t slot = 0; slot < 8; ++slot) {
      const int32_t expert = experts.view.data<int32_t>()[slot] - 1;
      if (expert < 0) continue;
      ++counts[expert];
      const int32_t row = part(8, 16).data<int32_t>()[slot];
      EXPECT_EQ(row_scales.view.data<float>()[row], scales.view.data<float>()[slot / 2]);
      for (int k = 0; k < 3; ++k) {
        EXPECT_EQ(rows.view.row<int32_t>(row)[k], x.view.row<int32_t>(slot / 2)[k]);
      }
    }
    EXPECT_EQ(part(19, 21).data<int32_t>()[0], times * counts[0]);
    EXPECT_EQ(part(19, 21).data<int32_t>()[1], times * counts[1]);
  }
}

// The sum alone.
void Add(const Delta& delta, const Tensor& residual) {
  const OwnedTensor weight = RandomTensor(DType::kF32, {residual.cols()}, 1);
  const OwnedTensor normed = OwnedTensor::Host(DType::kF32, {residual.rows(), residual.cols()});
  ReferenceBackend().AddRmsNorm(
      delta, residual, {.weight = weight.view, .eps = 1e-5f},
      {.values = normed.view, .activations = {.values = normed.view, .scales = {}}});
}

TEST(ReferenceCombineTest, WithoutAnIndexSlotsLieOneAfterTheOther) {
  const OwnedTensor rows = RandomTensor(DType::kBF16, {6, 8}, 11);
  const OwnedTensor weights = RandomTensor(DType::kF32, {3, 2}, 12);
  const OwnedTensor row_of = OwnedTensor::Host(DType::kI32, {3, 2});
  std::iota(row_of.view.data<int32_t>(), row_of.view.data<int32_t>() + 6, 0);
  const OwnedTensor indexed = RandomTensor(DType::kF32, {3, 8}, 13);
  const OwnedTensor direct = RandomTensor(DType::kF32, {3, 8}, 13);
  Add({.rows = rows.view, .row_of = row_of.view, .weights = weights.view}, indexed.view);
  Add({.rows = rows.view, .row_of = {}, .weights = weights.view}, direct.view);
  EXPECT_TRUE(BitwiseEqual(direct.view, indexed.view));
}

TEST(ReferenceCombineTest, SumsWeightedSlotsInAscendingOrderWithoutFma) {
  const OwnedTensor rows = RandomTensor(DType::kBF16, {15, 40}, 6);
  const OwnedTensor row_of = RandomInts({5, 3}, 0, 14, 7);
  const OwnedTensor weights = RandomTensor(DType::kF32, {5, 3}, 8);
  const OwnedTensor before = RandomTensor(DType::kF32, {5, 40}, 9);
  const OwnedTensor residual = RandomTensor(DType::kF32, {5, 40}, 9);
  Add({.rows = rows.view, .row_of = row_of.view, .weights = weights.view}, residual.view);
  for (int64_t m = 0; m < 5; ++m) {
    for (int64_t k = 0; k < 40; ++k) {
      volatile float term[3];  // every product rounded to float32 before the sums
      for (int s = 0; s < 3; ++s) {
        const int32_t row = row_of.view.row<int32_t>(m)[s];
        term[s] = weights.view.row<float>(m)[s] * static_cast<float>(ElementAt(rows.view, row, k));
      }
      volatile float sum = term[0] + term[1];
      sum = sum + term[2];
      EXPECT_EQ(residual.view.row<float>(m)[k], before.view.row<float>(m)[k] + sum);
    }
  }
}

}  // namespace
}  // namespace intermix
