// wgmma: the naive product in every thread order, and each fault that hardware would not forgive.
#include <cstdint>
#include <random>
#include <vector>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/ptx.h"
#include "tests/emulator/testing.h"

namespace intermix::cuda {
namespace {

using emu::DeviceArray;
using emu::Report;
using emu::Violation;

enum class Fault { kNone, kNoProxyFence, kNoWait, kEarlyOverwrite, kLateRegister, kMisplacedRows };

// D [64, 128] = A [64, 32] . B [32, 128] by one warpgroup; B is the second 32 in-features of rows
// of 128. As in the kernels, row g of a warp's 16 is the fragment's row g.
__global__ void MultiplyWgmma(const int8_t* a, const int8_t* b, int32_t* d, Fault fault) {
  const int thread = static_cast<int>(threadIdx.x);
  const int lane = thread % 32, warp = thread / 32;
  char* const rows = shared_memory() + (fault == Fault::kMisplacedRows ? 128 : 0);
  for (int i = thread; i < 128 * 8; i += 128) {
    const int row = i / 8, piece = i % 8;
    cp_async_16(rows + row * 128 + (piece ^ row % 8) * 16, b + row * 128 + piece * 16);
  }
  cp_async_commit();
  cp_async_wait<0>();
  if (fault != Fault::kNoProxyFence) fence_async_proxy();
  sync_block();
  uint32_t fragment[4];
  for (int r = 0; r < 4; ++r) {
    const int row = 16 * warp + lane / 4 + 8 * (r % 2), column = r / 2 * 16 + lane % 4 * 4;
    fragment[r] = *reinterpret_cast<const uint32_t*>(a + row * 32 + column);
  }
  int32_t sums[16][4];
  wgmma_fence();
  wgmma_m64n128k32_s8(sums, fragment, rows + 32, false);
  wgmma_commit();
  if (fault == Fault::kLateRegister) fragment[0] = 0;
  if (fault == Fault::kEarlyOverwrite) {
    sync_block();
    cp_async_16(rows + thread * 128, b);
    cp_async_commit();
  }
  if (fault != Fault::kNoWait) wgmma_wait<0>();
  wgmma_settle(sums);
  for (int j = 0; j < 16; ++j) {
    for (int i = 0; i < 4; ++i) {
      const int row = 16 * warp + lane / 4 + i / 2 * 8;
      d[row * 128 + j * 8 + lane % 4 * 2 + i % 2] = sums[j][i];
    }
  }
  cp_async_wait<0>();
}

class WgmmaTest : public testing::TestWithParam<emu::Options> {
 protected:
  WgmmaTest() {
    std::mt19937 random(3);
    for (int8_t& v : a_) v = static_cast<int8_t>(random());
    for (int8_t& v : b_) v = static_cast<int8_t>(random());
  }
  ~WgmmaTest() override { cudaDeviceReset(); }

  std::vector<int32_t> Expected() const {
    std::vector<int32_t> d(64 * 128, 0);
    for (int m = 0; m < 64; ++m) {
      for (int n = 0; n < 128; ++n) {
        for (int k = 0; k < 32; ++k) d[m * 128 + n] += a_[m * 32 + k] * b_[n * 128 + 32 + k];
      }
    }
    return d;
  }

  std::vector<int32_t> Run(Fault fault) {
    const DeviceArray<int8_t> a(a_), b(b_);
    const DeviceArray<int32_t> d(64 * 128);
    Launch("MultiplyWgmma", MultiplyWgmma, {.grid = 1, .block = 128, .shared_bytes = 20 * 1024},
           a.data(), b.data(), d.data(), fault);
    return cudaDeviceSynchronize() == cudaSuccess ? d.ToHost() : std::vector<int32_t>();
  }

  emu::ScopedOptions options_{GetParam()};
  std::vector<int8_t> a_ = std::vector<int8_t>(64 * 32);
  std::vector<int8_t> b_ = std::vector<int8_t>(128 * 128);
};

INSTANTIATE_TEST_SUITE_P(Orders, WgmmaTest, testing::ValuesIn(emu::AllOrders()));

TEST_P(WgmmaTest, IsTheNaiveProduct) { EXPECT_EQ(Run(Fault::kNone), Expected()); }

TEST_P(WgmmaTest, CopiesNeedAFenceBeforeItReadsThem) {
  const Report report;
  Run(Fault::kNoProxyFence);
  EXPECT_TRUE(report.Has(Violation::kAsyncCopy));
}

TEST_P(WgmmaTest, AThreadMayNotLeaveBeforeItEnds) {
  const Report report;
  Run(Fault::kNoWait);
  EXPECT_TRUE(report.Has(Violation::kAsyncCopy));
}

TEST_P(WgmmaTest, RowsMayNotBeOverwrittenBeforeItEnds) {
  const Report report;
  Run(Fault::kEarlyOverwrite);
  EXPECT_FALSE(report.findings().empty());
}

TEST_P(WgmmaTest, RegistersAreReadUntilItEnds) { EXPECT_NE(Run(Fault::kLateRegister), Expected()); }

TEST_P(WgmmaTest, RowsBeginWhereTheSwizzleDoes) {
  const Report report;
  Run(Fault::kMisplacedRows);
  EXPECT_TRUE(report.Has(Violation::kInvalidArgument));
}

}  // namespace
}  // namespace intermix::cuda
