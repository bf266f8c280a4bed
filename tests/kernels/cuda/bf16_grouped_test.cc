// The baseline's grouped GEMM: whole numbers, whose sums are exact in every order, equal
// ReferenceBackend; whatever the rows of an expert are. A row's bits do not depend on its company.
#include "kernels/cuda/bf16_grouped.h"

#include <utility>
#include <vector>

#include "kernels/core/lane_math.h"
#include "tests/kernels/cuda/cuda_ops_test.h"

namespace intermix {
namespace {

class CudaBf16GroupedTest : public CudaOpsTest {
 protected:
  // y [rows, n + 3], its first n columns written.
  OwnedTensor Run(const Tensor& x, const std::vector<OwnedTensor>& weights,
                  const OwnedTensor& offsets, DType dtype) {
    const int64_t n = weights[0].view.rows();
    std::vector<cuda::DeviceMemory> copies;
    std::vector<const uint16_t*> table;
    for (const OwnedTensor& w : weights) {
      copies.push_back(cuda::DeviceMemory::Copy(w.view));
      table.push_back(copies.back().at<const uint16_t>());
    }
    const cuda::DeviceMemory d_table = cuda::DeviceMemory::Copy(table);
    const DeviceTensor d_x(x), d_offsets(offsets);
    const DeviceTensor d_y(OwnedTensor::Host(dtype, {x.rows(), n + 3}));
    cuda::Bf16Grouped({.x = d_x.view,
                       .weights = d_table.at<const uint16_t* const>(),
                       .row_offsets = d_offsets.view,
                       .y = d_y.view.Cols(0, n)},
                      nullptr);
    return d_y.ToHost();
  }

  static OwnedTensor WholeNumbers(int64_t rows, int64_t cols, uint64_t seed) {
    const OwnedTensor ints = RandomInts({rows, cols}, -4, 4, seed);
    OwnedTensor x = OwnedTensor::Host(DType::kBF16, {rows, cols});
    for (int64_t i = 0; i < rows * cols; ++i) {
      x.view.data<BFloat16>()[i] = BFloat16(static_cast<float>(ints.view.data<int32_t>()[i]));
    }
    return x;
  }

  static OwnedTensor Offsets(const std::vector<int32_t>& counts) {
    OwnedTensor offsets = OwnedTensor::Host(DType::kI32, {std::ssize(counts) + 1});
    for (size_t e = 0; e < counts.size(); ++e) {
      offsets.view.data<int32_t>()[e + 1] = offsets.view.data<int32_t>()[e] + counts[e];
    }
    return offsets;
  }
};
INSTANTIATE_TEST_SUITE_P(, CudaBf16GroupedTest, ::testing::ValuesIn(cuda::AllKernelRuns()),
                         RunName);

TEST_P(CudaBf16GroupedTest, SumsOfWholeNumbersAreExact) {
  for (const auto& [n, k] : {std::pair<int64_t, int64_t>{32, 64}, {45, 40}, {70, 544}}) {
    SCOPED_TRACE(testing::Message() << n << " x " << k);
    const OwnedTensor offsets = Offsets({1, 0, 35, 8});
    constexpr int64_t kRows = 46;  // two belong to nobody
    const OwnedTensor x = WholeNumbers(kRows, k, 1);
    std::vector<OwnedTensor> weights;
    for (uint64_t e = 0; e < 4; ++e) weights.push_back(WholeNumbers(n, k, 2 + e));
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      const OwnedTensor expected = OwnedTensor::Host(dtype, {kRows, n + 3});
      for (size_t e = 0; e < weights.size(); ++e) {
        for (int32_t m = offsets.view.data<int32_t>()[e]; m < offsets.view.data<int32_t>()[e + 1];
             ++m) {
          for (int64_t i = 0; i < n; ++i) {
            PutValue(expected.view, m, i,
                     LaneDot(x.view.row<BFloat16>(m), weights[e].view.row<BFloat16>(i), k));
          }
        }
      }
      EXPECT_TRUE(BitwiseEqual(Run(x.view, weights, offsets, dtype).view, expected.view));
    }
  }
}

TEST_P(CudaBf16GroupedTest, ARowsBitsDoNotDependOnItsCompany) {
  const OwnedTensor x = RandomTensor(DType::kBF16, {40, 320}, 7);
  std::vector<OwnedTensor> weights;
  weights.push_back(RandomTensor(DType::kBF16, {32, 320}, 8));
  const OwnedTensor together = Run(x.view, weights, Offsets({40}), DType::kF32);
  for (const int64_t row : {0, 7, 31, 39}) {
    const OwnedTensor alone = Run(x.view.Rows(row, row + 1), weights, Offsets({1}), DType::kF32);
    EXPECT_TRUE(BitwiseEqual(alone.view, together.view.Rows(row, row + 1))) << row;
  }
}

}  // namespace
}  // namespace intermix
