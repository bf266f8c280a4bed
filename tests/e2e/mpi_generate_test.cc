// `mpirun -n N intermix generate` as a user runs it: the same tokens and text from every legal
// layout, and one sentence from one rank where a layout is not legal.
#include <array>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/run_program.h"
#include "tests/testing/test_paths.h"

namespace intermix {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

const std::string kMixtral = TestData() + "/tiny-mixtral";

ProgramResult Generate(int ranks, std::vector<std::string> arguments) {
  std::vector<std::string> all = {
      MpiRun(), "-n", std::to_string(ranks), IntermixBinary(), "generate", "--threads", "1"};
  all.insert(all.end(), arguments.begin(), arguments.end());
  return RunProgram({.arguments = all});
}

// What it says about a prompt, sampled with a seed, at this layout.
std::string Answer(int ranks, int tp, int ep, const std::vector<std::string>& more = {}) {
  std::vector<std::string> arguments = {
      "--model", kMixtral,           "--prompt", "And it came to pass", "--temperature",
      "0.8",     "--seed",           "7",        "--max-tokens",        "24",
      "--tp",    std::to_string(tp), "--ep",     std::to_string(ep)};
  arguments.insert(arguments.end(), more.begin(), more.end());
  const ProgramResult result = Generate(ranks, arguments);
  EXPECT_EQ(result.exit_code, 0) << result.err;
  return result.out;
}

TEST(MpiGenerateTest, EveryLayoutSaysTheSame) {
  const std::string alone = Answer(1, 1, 1);
  EXPECT_GT(alone.size(), 40u);
  for (const auto& [ranks, tp, ep] : std::vector<std::array<int, 3>>{
           {2, 2, 1}, {2, 1, 2}, {2, 2, 2}, {4, 4, 1}, {4, 2, 2}, {4, 1, 4}, {4, 4, 4}}) {
    EXPECT_EQ(Answer(ranks, tp, ep), alone) << ranks << " ranks, tp " << tp << ", ep " << ep;
  }
}

TEST(MpiGenerateTest, EveryWeightSchemeSaysTheSameOnFourRanks) {
  for (const std::vector<std::string>& scheme : std::vector<std::vector<std::string>>{
           {"--scheme", "none"}, {"--scheme", "float"}, {"--scales", "wide"}}) {
    EXPECT_EQ(Answer(4, 2, 4, scheme), Answer(1, 1, 1, scheme)) << scheme[1];
  }
}

TEST(MpiGenerateTest, AnInt8CacheSaysTheSameOnAnyNumberOfRanks) {
  const std::string alone = Answer(1, 1, 1, {"--kv-dtype", "int8"});
  EXPECT_GT(alone.size(), 40u);
  EXPECT_EQ(Answer(2, 2, 2, {"--kv-dtype", "int8"}), alone);
  EXPECT_EQ(Answer(4, 2, 4, {"--kv-dtype", "int8"}), alone);
}

TEST(MpiGenerateTest, GreedyTextIsThatOfTransformers) {
  const ProgramResult result = Generate(2, {"--model", kMixtral, "--prompt", "And it came to pass",
                                            "--max-tokens", "32", "--scheme", "none"});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_THAT(result.out,
              HasSubstr(", that, when the people were come to the camp, that they said, The LORD "
                        "hath delivered it into the hand of the king of Assyria.\nA"));
}

// Exit code 1, nothing on stdout, and the reason once, whatever mpirun adds to it.
void ExpectRefused(int ranks, const std::vector<std::string>& arguments,
                   const std::string& reason) {
  const ProgramResult result = Generate(ranks, arguments);
  EXPECT_EQ(result.exit_code, 1) << result.err;
  EXPECT_THAT(result.out, IsEmpty());
  const size_t first = result.err.find(reason);
  ASSERT_NE(first, std::string::npos) << result.err;
  EXPECT_EQ(result.err.find(reason, first + 1), std::string::npos) << result.err;
}

TEST(MpiGenerateTest, RefusesIllegalLayoutsWithOneSentence) {
  const std::vector<std::string> model = {"--model", kMixtral, "--token-ids", "5"};
  auto with = [&](std::vector<std::string> arguments) {
    arguments.insert(arguments.end(), model.begin(), model.end());
    return arguments;
  };
  ExpectRefused(3, with({"--tp", "2"}), "--tp 2 does not divide the 3 ranks of this job");
  ExpectRefused(2, with({"--ep", "3"}), "--ep 3 does not divide the 2 ranks of this job");
  ExpectRefused(3, with({"--tp", "3"}), "does not divide the model's num_attention_heads of 8");
  ExpectRefused(2, {"--model", "no-such-model", "--token-ids", "5"}, "no-such-model");
}

}  // namespace
}  // namespace intermix
