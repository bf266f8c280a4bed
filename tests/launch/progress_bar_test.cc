#include "launch/progress_bar.h"

#include <algorithm>
#include <vector>

#include "comm/self_communicator.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "runtime/engine/rank.h"
#include "tests/testing/model_files.h"
#include "tests/testing/test_paths.h"

namespace intermix {
namespace {

using ::testing::HasSubstr;

// What a bar writes to a file when it goes from 0 to `total` in steps of one.
std::string Words(absl::Duration quiet, int64_t total) {
  const TempDirectory directory;
  std::FILE* file = std::fopen((directory / "out").c_str(), "wb");
  {
    ProgressBar bar("loading", ProgressBar::Unit::kBytes, file, quiet);
    for (int64_t done = 0; done <= total; ++done) bar.Update(done * 1'000'000, total * 1'000'000);
  }
  std::fclose(file);
  return ReadFile(directory / "out");
}

TEST(ProgressBarTest, WritesALineForEachTenthToAFile) {
  const std::string words = Words(absl::ZeroDuration(), 100);
  EXPECT_THAT(words, HasSubstr("loading  50%  50.0 MB of 100.0 MB  "));
  EXPECT_THAT(words, HasSubstr("loading 100%  100.0 MB of 100.0 MB  "));
  EXPECT_EQ(std::count(words.begin(), words.end(), '\n'), 10);
}

TEST(ProgressBarTest, SaysNothingOfWhatEndsSoon) { EXPECT_EQ(Words(absl::Hours(1), 100), ""); }

TEST(ProgressBarTest, LoadingCountsBytesUpToAllWeights) {
  std::vector<std::pair<int64_t, int64_t>> calls;
  RankOptions options;
  options.model_directory = TestData() + "/tiny-mixtral";
  options.quant.scheme = Scheme::kNone;
  options.load_progress = [&](int64_t done, int64_t total) { calls.emplace_back(done, total); };
  const auto rank = Rank::Create(options, MakeSelfCommunicator());
  ASSERT_TRUE(rank.ok()) << rank.status();
  ASSERT_EQ(calls.size(), (*rank)->config().num_hidden_layers);
  for (size_t i = 0; i < calls.size(); ++i) {
    EXPECT_GT(calls[i].first, i == 0 ? 0 : calls[i - 1].first);
    EXPECT_EQ(calls[i].second, (*rank)->weight_bytes());
  }
  EXPECT_EQ(calls.back().first, (*rank)->weight_bytes());
}

}  // namespace
}  // namespace intermix
