// A Batch as each dp group steps it, and where the wanted logits rows end up.
#include "runtime/engine/step_inputs.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace intermix {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

// Three sequences: a decoded token and a prompt's second chunk in group 0, a whole prompt in
// group 1.
Batch MixedBatch() {
  return {.step = 7,
          .chunks = {{.dp_rank = 0,
                      .start = 5,
                      .logits = LogitsWanted::kLast,
                      .tokens = {50},
                      .blocks = {9, 3}},
                     {.dp_rank = 1,
                      .start = 0,
                      .logits = LogitsWanted::kAll,
                      .tokens = {10, 11, 12},
                      .blocks = {2}},
                     {.dp_rank = 0,
                      .start = 3,
                      .logits = LogitsWanted::kLast,
                      .tokens = {73, 74, 75},
                      .blocks = {0, 6, 4}}}};
}

TEST(StepInputsTest, PositionsAndSlotsFollowTheBlockTables) {
  const StepInputs inputs = MakeStepInputs(MixedBatch(), 0, 4);
  EXPECT_THAT(inputs.token_ids, ElementsAre(50, 73, 74, 75));
  EXPECT_THAT(inputs.positions, ElementsAre(5, 3, 4, 5));
  EXPECT_THAT(inputs.slots, ElementsAre(3 * 4 + 1, 0 * 4 + 3, 6 * 4 + 0, 6 * 4 + 1));
  EXPECT_THAT(inputs.query_starts, ElementsAre(0, 1, 4));
  EXPECT_EQ(inputs.max_blocks, 4);
  EXPECT_THAT(inputs.block_tables, ElementsAre(9, 3, 0, 0, 0, 6, 4, 0));
  EXPECT_THAT(inputs.logits_tokens, ElementsAre(0, 3));
}

TEST(StepInputsTest, BlockTablesAreAsWideInEveryGroup) {
  const StepInputs inputs = MakeStepInputs(MixedBatch(), 1, 4);
  EXPECT_EQ(inputs.max_blocks, 4);
  EXPECT_THAT(inputs.block_tables, ElementsAre(2, 0, 0, 0));
}

TEST(StepInputsTest, AGroupWithoutSequencesStepsNothing) {
  const StepInputs inputs = MakeStepInputs(MixedBatch(), 2, 4);
  EXPECT_EQ(inputs.num_tokens(), 0);
  EXPECT_EQ(inputs.num_sequences(), 0);
  EXPECT_THAT(inputs.logits_tokens, IsEmpty());
}

TEST(StepInputsTest, LogitsRowsComeGroupAfterGroupAndGoBackToTheBatchsOrder) {
  EXPECT_THAT(TokensOfGroups(MixedBatch(), 2), ElementsAre(4, 3));
  EXPECT_THAT(LogitsRowsOfGroups(MixedBatch(), 2), ElementsAre(2, 3));
  // Groups' rows: [chunk 0, chunk 2 | chunk 1's three]; the batch wants chunk 0, 1, 1, 1, 2.
  EXPECT_THAT(LogitsRowOrder(MixedBatch(), 2), ElementsAre(0, 2, 3, 4, 1));
}

TEST(StepInputsDeathTest, ABlockTableThatIsTooShortIsABug) {
  Batch batch = MixedBatch();
  batch.chunks[0].blocks.pop_back();
  EXPECT_DEATH(MakeStepInputs(batch, 0, 4), "CHECK failed");
}

}  // namespace
}  // namespace intermix
