// The GPU's limits at the size of a toy: what they count, and that the int8 product, which no layer
// of a model uses, is one.
#include "kernels/cuda/cuda_limits.h"

#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/cuda/cublaslt_gemm.h"
#include "kernels/cuda/cuda_context.h"
#include "tests/kernels/cuda/device_memory.h"
#include "tests/testing/random.h"

namespace intermix {
namespace {

TEST(CudaLimitsTest, EveryResourceHasOneAndItRuns) {
  const absl::StatusOr<std::vector<Limit>> limits = CudaLimits({.side = 32});
  ASSERT_TRUE(limits.ok()) << limits.status();
  std::vector<Resource> resources;
  for (const Limit& limit : *limits) {
    resources.push_back(limit.resource);
    limit.run();
    limit.run();
    // Four launches: 32 bytes of each element read and written; 32 multiplications and additions.
    EXPECT_EQ(limit.amount, 4 * 2 * 32 * 32 * 32) << limit.name;
  }
  EXPECT_THAT(resources, testing::ElementsAre(Resource::kBytes, Resource::kInt8, Resource::kFloat));
}

TEST(CudaLimitsTest, ALimitOutlivesTheOthers) {
  Limit last;
  {
    const absl::StatusOr<std::vector<Limit>> limits = CudaLimits({.side = 16});
    ASSERT_TRUE(limits.ok()) << limits.status();
    last = limits->back();
  }
  last.run();
}

TEST(CudaLimitsTest, AGpuThatIsNotThereIsRefused) {
  EXPECT_EQ(CudaLimits({.device = 99}).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(CublasLtGemmTest, Int8ProductsAreExact) {
  constexpr int64_t kTokens = 5;
  constexpr int64_t kN = 8;
  constexpr int64_t kK = 36;
  Random random(1);
  std::vector<int8_t> x(kTokens * kK);
  std::vector<int8_t> w(kN * kK);
  for (int8_t& code : x) code = static_cast<int8_t>(random.Int(-128, 127));
  for (int8_t& code : w) code = static_cast<int8_t>(random.Int(-128, 127));
  const cuda::DeviceMemory d_x = cuda::DeviceMemory::Copy(x);
  const cuda::DeviceMemory d_w = cuda::DeviceMemory::Copy(w);
  const auto context = cuda::CudaContext::Make(0, 0);
  ASSERT_TRUE(context.ok()) << context.status();
  const Buffer d_y = (*context)->Allocate(kTokens * kN * sizeof(int32_t));
  const auto gemm = cuda::CublasLtGemm::Open(**context);
  ASSERT_TRUE(gemm.ok()) << gemm.status();
  (*gemm)->Multiply(Tensor(d_x.data(), DType::kI8, {kTokens, kK}, Device::kCuda),
                    Tensor(d_w.data(), DType::kI8, {kN, kK}, Device::kCuda),
                    d_y.View(DType::kI32, {kTokens, kN}));
  ASSERT_EQ(cudaStreamSynchronize((*context)->stream()), cudaSuccess);
  const OwnedTensor y = OwnedTensor::Host(DType::kI32, {kTokens, kN});
  ASSERT_EQ(cudaMemcpy(y.view.raw(), d_y.data(), d_y.bytes(), cudaMemcpyDeviceToHost), cudaSuccess);
  for (int64_t t = 0; t < kTokens; ++t) {
    for (int64_t n = 0; n < kN; ++n) {
      int32_t expected = 0;
      for (int64_t k = 0; k < kK; ++k) {
        expected += x[static_cast<size_t>(t * kK + k)] * w[static_cast<size_t>(n * kK + k)];
      }
      EXPECT_EQ(y.view.row<int32_t>(t)[n], expected) << t << ", " << n;
    }
  }
}

}  // namespace
}  // namespace intermix
