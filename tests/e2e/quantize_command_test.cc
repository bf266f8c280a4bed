// `intermix quantize` and `intermix upcycle` as a user runs them: exit codes, what is printed, what
// is left on the disk.
#include <algorithm>
#include <csignal>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/model_files.h"
#include "tests/testing/run_program.h"
#include "tests/testing/test_paths.h"

namespace intermix {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::StartsWith;

const std::string kModel = TestData() + "/random-llama-gqa";

class QuantizeCommand : public ::testing::Test {
 protected:
  ProgramResult Quantize(std::vector<std::string> arguments, int pending_signal = 0) {
    std::vector<std::string> all = {IntermixBinary(), "quantize", "--model",
                                    kModel,           "--out",    directory_ / "out"};
    all.insert(all.end(), arguments.begin(), arguments.end());
    return RunProgram({.arguments = all, .pending_signal = pending_signal});
  }

  // Refused with exit code 1, one sentence, and nothing left behind.
  std::string Refusal(const std::vector<std::string>& arguments) {
    const ProgramResult result = Quantize(arguments);
    EXPECT_EQ(result.exit_code, 1) << result.err;
    EXPECT_THAT(result.out, IsEmpty());
    EXPECT_THAT(result.err, StartsWith("intermix quantize: "));
    EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
    EXPECT_THAT(ListNames(directory_.path()), ElementsAre());
    return result.err;
  }

  TempDirectory directory_;
};

TEST_F(QuantizeCommand, WritesADirectoryAndSaysWhatItDid) {
  const ProgramResult result = Quantize({"--group-size", "32", "--scales", "folded"});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_THAT(result.out, HasSubstr("integer folded W4 g32"));
  EXPECT_THAT(result.out, HasSubstr("15 linear layers (14 folded), 6 others"));
  EXPECT_THAT(result.out, HasSubstr("relative squared"));
  EXPECT_THAT(result.err, HasSubstr("quantising 100%"));
  EXPECT_THAT(result.err, ::testing::Not(HasSubstr("\r"))) << "a bar in what is no terminal";
  EXPECT_THAT(ListNames(directory_ / "out"), ::testing::Contains("model.safetensors"));
}

TEST_F(QuantizeCommand, RefusesBadInputWithOneSentence) {
  EXPECT_THAT(Refusal({}), HasSubstr("intermediate_size 96 is not a multiple of group size 128; "
                                     "use 32"));
  EXPECT_THAT(Refusal({"--bits", "5"}), HasSubstr("use 4 or 8"));
  EXPECT_THAT(Refusal({"--scheme", "magic"}), HasSubstr("integer, float, none"));
  EXPECT_THAT(Refusal({"--scales", "thin"}), HasSubstr("auto, folded, wide"));
  EXPECT_THAT(Refusal({"--amplifier", "1000"}), HasSubstr("power of two"));
}

TEST_F(QuantizeCommand, RefusesToOverwriteWithoutForce) {
  ASSERT_EQ(Quantize({"--group-size", "32"}).exit_code, 0);
  const ProgramResult again = Quantize({"--group-size", "32"});
  EXPECT_EQ(again.exit_code, 1);
  EXPECT_THAT(again.err, HasSubstr("--force"));
  EXPECT_EQ(Quantize({"--group-size", "32", "--force"}).exit_code, 0);
}

TEST_F(QuantizeCommand, LeavesNothingBehindWhenInterrupted) {
  for (int signal : {SIGINT, SIGTERM}) {
    const ProgramResult result = Quantize({"--group-size", "32"}, signal);
    EXPECT_EQ(result.exit_code, 1);
    EXPECT_THAT(result.err, HasSubstr("interrupted"));
    EXPECT_THAT(ListNames(directory_.path()), ElementsAre());
  }
}

TEST(UpcycleCommand, WritesADirectoryOrNothing) {
  const TempDirectory directory;
  const auto upcycle = [&](const std::vector<std::string>& more, int pending_signal = 0) {
    std::vector<std::string> all = {IntermixBinary(), "upcycle", "--model",
                                    kModel,           "--out",   directory / "out"};
    all.insert(all.end(), more.begin(), more.end());
    return RunProgram({.arguments = all, .pending_signal = pending_signal});
  };
  EXPECT_EQ(upcycle({"--experts"}).exit_code, 2);
  EXPECT_EQ(upcycle({}, SIGINT).exit_code, 1);
  EXPECT_THAT(ListNames(directory.path()), ElementsAre());
  const ProgramResult refused = upcycle({"--top-k", "9"});
  EXPECT_EQ(refused.exit_code, 1);
  EXPECT_THAT(refused.err, StartsWith("intermix upcycle: "));
  EXPECT_THAT(refused.err, HasSubstr("num_experts_per_tok"));
  const ProgramResult result = upcycle({"--experts", "4", "--top-k", "3"});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_THAT(result.out, HasSubstr("4 experts, 3 for each token"));
  EXPECT_THAT(ListNames(directory / "out"), ::testing::Contains("model.safetensors"));
}

}  // namespace
}  // namespace intermix
