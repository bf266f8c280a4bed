// `mpirun -n N intermix generate --device cuda` as a user runs it, on GPUs, emulated or not: the
// same text from every layout, and one sentence where there are too few GPUs.
#include <array>
#include <cstdlib>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/cuda/cuda_backend.h"
#include "tests/testing/run_program.h"
#include "tests/testing/test_paths.h"

namespace intermix {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

ProgramResult Generate(int ranks, int tp, int ep) {
  return RunProgram({.arguments = {MpiRun(),
                                   "-n",
                                   std::to_string(ranks),
                                   IntermixBinary(),
                                   "generate",
                                   "--device",
                                   "cuda",
                                   "--model",
                                   TestData() + "/tiny-mixtral",
                                   "--threads",
                                   "1",
                                   "--prompt",
                                   "And it came to pass",
                                   "--temperature",
                                   "0.8",
                                   "--seed",
                                   "7",
                                   "--max-tokens",
                                   "6",
                                   "--max-context",
                                   "64",
                                   "--tp",
                                   std::to_string(tp),
                                   "--ep",
                                   std::to_string(ep)}});
}

class CudaGenerateTest : public testing::Test {
 protected:
  // Races are looked for where the kernels themselves are tested.
  CudaGenerateTest() { setenv("INTERMIX_EMULATOR", "devices=4,shadow=off", /*overwrite=*/0); }

  static std::string Answer(int ranks, int tp, int ep) {
    const ProgramResult result = Generate(ranks, tp, ep);
    EXPECT_EQ(result.exit_code, 0) << result.err;
    return result.out;
  }
};

TEST_F(CudaGenerateTest, EveryLayoutSaysTheSame) {
  const std::string alone = Answer(1, 1, 1);
  EXPECT_GT(alone.size(), 10u);
  for (const auto& [ranks, tp, ep] : std::vector<std::array<int, 3>>{
           {2, 2, 1}, {2, 1, 2}, {4, 4, 1}, {4, 2, 2}, {4, 1, 4}, {4, 4, 4}}) {
    if (!MakeCudaBackend({.device = ranks - 1}).ok()) {
      GTEST_SKIP() << "this host has fewer than " << ranks << " GPUs";
    }
    EXPECT_EQ(Answer(ranks, tp, ep), alone) << ranks << " ranks, tp " << tp << ", ep " << ep;
  }
}

TEST_F(CudaGenerateTest, MoreRanksThanGpusAreRefusedWithOneSentence) {
  setenv("INTERMIX_EMULATOR", "devices=1,shadow=off", /*overwrite=*/1);
  if (MakeCudaBackend({.device = 1}).ok()) GTEST_SKIP() << "this host has several GPUs";
  const ProgramResult result = Generate(2, 2, 1);
  EXPECT_EQ(result.exit_code, 1) << result.err;
  EXPECT_THAT(result.out, IsEmpty());
  EXPECT_THAT(result.err, HasSubstr("rank 1 wants GPU 1 of its host, which has 1; start at most"));
}

}  // namespace
}  // namespace intermix
