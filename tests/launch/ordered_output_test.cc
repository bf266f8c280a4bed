#include "launch/ordered_output.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/model_files.h"

namespace intermix {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

TEST(OrderedOutputTest, WritesInOrderAndTakesTheNameAtTheEnd) {
  const TempDirectory directory;
  WriteFile(directory / "out", "old");
  const auto output = OrderedOutput::Open(directory / "out");
  ASSERT_TRUE(output.ok()) << output.status();
  for (const int i : {2, 0, 3, 1}) (*output)->Add(i, "line " + std::to_string(i));
  EXPECT_EQ(ReadFile(directory / "out"), "old");
  ASSERT_TRUE((*output)->Finish().ok());
  EXPECT_EQ(ReadFile(directory / "out"), "line 0\nline 1\nline 2\nline 3\n");
  EXPECT_THAT(ListNames(directory.path()), ElementsAre("out"));
}

TEST(OrderedOutputTest, KeepsWhatIsDoneWhenAbandoned) {
  const TempDirectory directory;
  const auto output = OrderedOutput::Open(directory / "out");
  ASSERT_TRUE(output.ok()) << output.status();
  (*output)->Add(0, "a");
  (*output)->Add(2, "c");
  EXPECT_EQ((*output)->Abandon(), directory / "out.partial");
  EXPECT_EQ(ReadFile(directory / "out.partial"), "a\nc\n");
  EXPECT_THAT(ListNames(directory.path()), ElementsAre("out.partial"));
}

TEST(OrderedOutputTest, SaysWhatItCannotWrite) {
  const TempDirectory directory;
  EXPECT_THAT(std::string(OrderedOutput::Open(directory / "no/out").status().message()),
              HasSubstr("cannot write " + (directory / "no/out.partial") + ": No such file"));
  const auto full = OrderedOutput::Open("");
  ASSERT_TRUE(full.ok());
  EXPECT_EQ((*full)->Abandon(), "stdout");
  EXPECT_THAT(ListNames(directory.path()), IsEmpty());
}

}  // namespace
}  // namespace intermix
