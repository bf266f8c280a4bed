// Batch: the flat form survives a round trip and refuses corruption.
#include "runtime/engine/batch.h"

#include <limits>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace intermix {
namespace {

using ::testing::HasSubstr;

Batch Example() {
  return {.step = -(int64_t{1} << 40) - 7,
          .stop = true,
          .likeliest = 20,
          .chunks = {{.dp_rank = 1,
                      .start = 32,
                      .logits = LogitsWanted::kAll,
                      .tokens = {5, 6, 7},
                      .blocks = {9, 4, 2}},
                     {.start = 0, .tokens = {11, 12}, .blocks = {0}},
                     {.dp_rank = 2, .logits = LogitsWanted::kLast, .tokens = {1, 2, 3, 4}}}};
}

TEST(BatchTest, CountsTokensAndLogitsRows) {
  const Batch batch = Example();
  EXPECT_EQ(batch.num_tokens(), 9);
  EXPECT_EQ(batch.num_logits_rows(), 3 + 0 + 1);
  EXPECT_EQ(batch.chunks[0].end(), 35);
  EXPECT_EQ(Batch().num_tokens(), 0);
}

TEST(BatchTest, SurvivesARoundTrip) {
  for (const Batch& batch : {Batch(), Example(), Batch{.step = int64_t{1} << 33}}) {
    const absl::StatusOr<Batch> back = Batch::Deserialize(batch.Serialize());
    ASSERT_TRUE(back.ok()) << back.status();
    EXPECT_EQ(*back, batch);
  }
}

TEST(BatchTest, RefusesEveryTruncationAndAnyExtension) {
  const std::vector<int32_t> words = Example().Serialize();
  for (size_t size = 0; size < words.size(); ++size) {
    std::vector<int32_t> cut(words.begin(), words.begin() + size);
    EXPECT_FALSE(Batch::Deserialize(cut).ok()) << size;
    // Also where the length word was made to agree.
    if (size < 2) continue;
    cut[1] = static_cast<int32_t>(size);
    EXPECT_EQ(Batch::Deserialize(cut).status().code(), absl::StatusCode::kDataLoss) << size;
  }
  std::vector<int32_t> longer = words;
  longer.push_back(0);
  longer[1] += 1;
  EXPECT_THAT(Batch::Deserialize(longer).status().message(), HasSubstr("follow its last chunk"));
}

// Every word set to an extreme value either still parses to something self-consistent or is
// refused; it never reads outside the buffer (the asan preset watches) nor allocates the moon.
TEST(BatchTest, SurvivesEveryWordBeingReplaced) {
  const std::vector<int32_t> words = Example().Serialize();
  int refused = 0;
  for (size_t i = 0; i < words.size(); ++i) {
    for (int32_t value : {std::numeric_limits<int32_t>::min(), -1, 0, 3, 1000,
                          std::numeric_limits<int32_t>::max()}) {
      std::vector<int32_t> bad = words;
      bad[i] = value;
      const absl::StatusOr<Batch> batch = Batch::Deserialize(bad);
      if (batch.ok()) {
        EXPECT_EQ(batch->Serialize(), bad);
      } else {
        ++refused;
      }
    }
  }
  EXPECT_GT(refused, 50);
}

TEST(BatchTest, NamesWhatIsWrong) {
  std::vector<int32_t> words = Batch{.chunks = {{.tokens = {1}, .blocks = {0}}}}.Serialize();
  words[0] += 1;
  EXPECT_THAT(Batch::Deserialize(words).status().message(), HasSubstr("magic"));
  words[0] -= 1;
  words[7 + 2] = 3;
  EXPECT_THAT(Batch::Deserialize(words).status().message(), HasSubstr("logits field is 3"));
  words[7 + 2] = 0;
  words[7 + 1] = std::numeric_limits<int32_t>::max();
  EXPECT_THAT(Batch::Deserialize(words).status().message(), HasSubstr("starts at 2147483647"));
  words[5] = 65;
  EXPECT_THAT(Batch::Deserialize(words).status().message(), HasSubstr("the 65 likeliest tokens"));
}

}  // namespace
}  // namespace intermix
