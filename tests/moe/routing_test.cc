// Sorting tokens by expert: every (token, slot) has one row, experts and tokens ascend.
#include "moe/routing.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/random.h"

namespace intermix {
namespace {

using ::testing::ElementsAre;

TEST(SortByExpertTest, OrdersByExpertThenToken) {
  OwnedTensor experts = OwnedTensor::Host(DType::kI32, {3, 2});
  std::ranges::copy(std::vector<int32_t>{2, 0, 0, 3, 2, 0}, experts.view.data<int32_t>());
  const ExpertOrder order = SortByExpert({.experts = experts.view, .weights = Tensor()}, 4);
  EXPECT_THAT(order.offsets, ElementsAre(0, 3, 3, 5, 6));
  EXPECT_THAT(order.token_of_row, ElementsAre(0, 1, 2, 0, 2, 1));
  EXPECT_THAT(order.row_of_slot, ElementsAre(3, 0, 1, 5, 4, 2));
}

TEST(SortByExpertTest, NoTokens) {
  const ExpertOrder order =
      SortByExpert({.experts = Tensor(nullptr, DType::kI32, {0, 2}), .weights = Tensor()}, 2);
  EXPECT_THAT(order.offsets, ElementsAre(0, 0, 0));
  EXPECT_TRUE(order.token_of_row.empty());
}

TEST(SortByExpertDeathTest, AnExpertOutOfRangeIsABug) {
  const OwnedTensor experts = RandomInts({1, 1}, 4, 4, 1);
  EXPECT_DEATH(SortByExpert({.experts = experts.view, .weights = Tensor()}, 4), "expert 4");
}

}  // namespace
}  // namespace intermix
