// mma, wgmma and ldmatrix give what an H200 gave, register by register: on other GPUs, and in the
// emulator in every thread order.
#include "tests/kernels/cuda/fragments.h"

#include <bit>
#include <cmath>
#include <random>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/core/dtype.h"
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
  EXPECT_EQ(cases.size(), 23u);
  for (const FragmentCase& one : cases) {
    const Product* product = FindProduct(one.instruction);
    if (product == nullptr) {
      EXPECT_EQ(RunFragment(FragmentOf(one.instruction), one.in), one.out) << one.instruction;
    } else if (DeviceHasWgmma()) {
      EXPECT_EQ(RunProduct(*product, one.in), one.out) << one.instruction;
    }
  }
}

// Normal numbers times 2^x, x up to +-spread.
std::vector<uint32_t> DrawProduct(const Product& product, int spread, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::uniform_int_distribution<int> exponent(-spread, spread);
  const auto draw = [&] { return std::ldexp(normal(random), exponent(random)); };
  std::vector<uint32_t> words;
  for (int i = 0; i < product.words_a() + product.words_b(); ++i) {
    words.push_back(BFloat16(draw()).bits | uint32_t{BFloat16(draw()).bits} << 16);
  }
  for (int i = 0; i < product.words_d(); ++i) words.push_back(std::bit_cast<uint32_t>(draw()));
  return words;
}

TEST_P(FragmentsTest, WgmmaGivesTheBitsOfMma) {
  if (!DeviceHasWgmma()) GTEST_SKIP() << "no compute capability 9.0";
  uint32_t seed = 0;
  for (const Product& product : kProducts) {
    for (const int spread : {0, 1, 4, 12, 30}) {
      for (int i = 0; i < 4; ++i) {
        const std::vector<uint32_t> in = DrawProduct(product, spread, ++seed);
        EXPECT_EQ(RunProduct(product, in), RunProductOnMma(product, in))
            << product.instruction << ", spread " << spread << ", seed " << seed;
      }
    }
  }
}

}  // namespace
}  // namespace intermix::cuda
