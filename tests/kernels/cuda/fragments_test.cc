// mma and ldmatrix give what an H200 gave, register by register: on other GPUs, and in the emulator
// in every thread order.
#include "tests/kernels/cuda/fragments.h"

#include "gtest/gtest.h"
#include "tests/kernels/cuda/kernel_run.h"
#include "tests/testing/test_paths.h"

namespace intermix::cuda {
namespace {

class FragmentsTest : public ::testing::TestWithParam<KernelRun> {
 private:
  ScopedKernelRun run_{GetParam()};
};
INSTANTIATE_TEST_SUITE_P(, FragmentsTest, ::testing::ValuesIn(AllKernelRuns()),
                         [](const ::testing::TestParamInfo<KernelRun>& run) {
                           return run.param.name;
                         });

TEST_P(FragmentsTest, AreAsRecordedOnHardware) {
  const std::vector<FragmentCase> cases = ReadFragmentCases(TestData() + "/fragments/h200.json");
  EXPECT_EQ(cases.size(), 16u);
  for (const FragmentCase& one : cases) {
    EXPECT_EQ(RunFragment(FragmentOf(one.instruction), one.in), one.out) << one.instruction;
  }
}

}  // namespace
}  // namespace intermix::cuda
