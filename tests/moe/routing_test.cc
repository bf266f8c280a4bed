// Sorting tokens by expert: every (token, slot) of the asked experts has one row; experts and
// tokens ascend. And the counters of how busy experts have been.
#include "moe/routing.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/reference/reference_backend.h"
#include "moe/routing_stats.h"
#include "tests/testing/random.h"

namespace intermix {
namespace {

using ::testing::ElementsAre;

class SortByExpertTest : public testing::Test {
 protected:
  ReferenceBackend backend_;
  Workspace workspace_{[](size_t bytes) { return Buffer::Host(bytes); }};
  Execution exec_{.backend = backend_, .workspace = workspace_};
};

TEST_F(SortByExpertTest, OrdersByExpertThenToken) {
  const Tensor experts = exec_.Upload(std::vector<int32_t>{2, 0, 0, 3, 2, 0}).Reshape({3, 2});
  const ExpertOrder order = SortByExpert(exec_, experts, 0, 4);
  EXPECT_THAT(exec_.Download<int32_t>(order.row_offsets), ElementsAre(0, 3, 3, 5, 6));
  EXPECT_THAT(exec_.Download<int32_t>(order.token_of_row), ElementsAre(0, 1, 2, 0, 2, 1));
  EXPECT_THAT(exec_.Download<int32_t>(order.row_of_slot), ElementsAre(3, 0, 1, 5, 4, 2));
}

TEST_F(SortByExpertTest, OtherRanksExpertsHaveNoRow) {
  const Tensor experts = exec_.Upload(std::vector<int32_t>{2, 0, 0, 3, 2, 0}).Reshape({3, 2});
  const ExpertOrder order = SortByExpert(exec_, experts, 2, 2);
  EXPECT_THAT(exec_.Download<int32_t>(order.row_offsets), ElementsAre(0, 2, 3));
  EXPECT_THAT(exec_.Download<int32_t>(order.token_of_row), ElementsAre(0, 2, 1, 0, 0, 0));
  EXPECT_THAT(exec_.Download<int32_t>(order.row_of_slot), ElementsAre(0, -1, -1, 2, 1, -1));
}

TEST_F(SortByExpertTest, GroupingBringsRowsAndCountsThem) {
  const Tensor experts = exec_.Upload(std::vector<int32_t>{2, 0, 0, 3, 2, 0}).Reshape({3, 2});
  const Activations tokens = {.values = exec_.Upload(std::vector<float>{1, 2, 3}).Reshape({3, 1})};
  const Tensor totals = exec_.Upload(std::vector<int32_t>{10, -1});
  const ExpertOrder order = GroupByExpert(exec_, tokens, experts, 2, totals);
  EXPECT_THAT(exec_.Download<int32_t>(order.row_offsets), ElementsAre(0, 2, 3));
  EXPECT_THAT(exec_.Download<int32_t>(totals), ElementsAre(12, 0));
  EXPECT_THAT(exec_.Download<float>(order.rows.values.Rows(0, 3)), ElementsAre(1, 3, 2));
}

TEST_F(SortByExpertTest, NoTokens) {
  const ExpertOrder order = SortByExpert(exec_, exec_.Take(DType::kI32, {0, 2}), 0, 2);
  EXPECT_THAT(exec_.Download<int32_t>(order.row_offsets), ElementsAre(0, 0, 0));
  EXPECT_EQ(order.token_of_row.rows(), 0);
}

TEST(RoutingStatsTest, AddsWhatCameSinceTheLastUpdateAcrossLayersAndWraps) {
  RoutingStats stats(4, 2);  // experts 2 and 3 of 4
  const auto update = [&stats](std::vector<int32_t> totals) {
    stats.Update(Tensor(totals.data(), DType::kI32, {2, 2}));
  };
  update({1, 2, 10, 20});
  EXPECT_THAT(stats.expert_tokens(), ElementsAre(0, 0, 11, 22));
  update({-1, 2, 10, 25});  // the first counter is at 2^32 - 1
  update({4, 2, 10, 25});   // and wrapped
  stats.Update(Tensor());   // of a dense model
  EXPECT_THAT(stats.expert_tokens(), ElementsAre(0, 0, 10 + (int64_t{1} << 32) + 4, 27));
}

}  // namespace
}  // namespace intermix
