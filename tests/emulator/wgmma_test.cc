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

enum class Fault {
  kNone,
  kNoProxyFence,
  kLateProxyFence,
  kNoWait,
  kEarlyRead,
  kEarlyOverwrite,
  kLateRegister,
  kMisplacedRows
};

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

// D [64, kColumns] = A [64, 32] . B [32, kColumns] of bfloat16 in two steps. B in global memory is
// what a row of shared memory holds: columns with 64 in-features, the second 32 of which are
// multiplied; transposed, in-features with kColumns columns. It gets there by ordinary stores.
template <int kColumns, bool kTransposed>
__global__ void MultiplyBf16(const uint16_t* a, const uint16_t* b, float* d, Fault fault) {
  const int thread = static_cast<int>(threadIdx.x);
  const int lane = thread % 32, warp = thread / 32;
  char* const rows = shared_memory() + (fault == Fault::kMisplacedRows ? 128 : 0);
  constexpr int kRows = kTransposed ? 32 : kColumns;
  constexpr int kPieces = kTransposed ? kColumns / 8 : 8;  // of a row
  for (int i = thread; i < kRows * kPieces; i += 128) {
    const int row = i / kPieces, piece = i % kPieces;
    char* const to = rows + piece / 8 * 8192 + row * 128 + (piece % 8 ^ row % 8) * 16;
    *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(b + i * 8);
  }
  const bool fenced = fault != Fault::kNoProxyFence && fault != Fault::kLateProxyFence;
  if (fenced) fence_async_proxy();
  sync_block();
  if (fault == Fault::kLateProxyFence) fence_async_proxy();
  uint32_t fragments[2][4];
  for (int i = 0; i < 8; ++i) {
    const int row = 16 * warp + lane / 4 + 8 * (i % 2);
    const int column = i / 4 * 16 + i % 4 / 2 * 8 + lane % 4 * 2;
    fragments[i / 4][i % 4] = *reinterpret_cast<const uint32_t*>(a + row * 32 + column);
  }
  float sums[kColumns / 8][4] = {};
  wgmma_fence();
  for (int step = 0; step < 2; ++step) {
    if constexpr (!kTransposed) {
      if constexpr (kColumns == 64) {
        wgmma_m64n64k16_bf16(sums, fragments[step], rows + 64, step * 32, step > 0);
      } else {
        wgmma_m64n8k16_bf16(sums[0], fragments[step], rows + 64, step * 32);
      }
    } else if constexpr (kColumns == 64) {
      wgmma_m64n64k16_bf16_trans(sums, fragments[step], rows, step * 2048);
    } else {
      wgmma_m64n128k16_bf16_trans(sums, fragments[step], rows, step * 2048);
    }
  }
  wgmma_commit();
  if (fault == Fault::kLateRegister) fragments[1][0] = 0;
  if (fault == Fault::kEarlyOverwrite) {
    sync_block();
    *reinterpret_cast<uint32_t*>(rows + thread * 4) = 0;
  }
  if (fault != Fault::kEarlyRead) wgmma_wait<0>();
  for (int i = 0; i < kColumns / 2; ++i) {
    const int row = 16 * warp + lane / 4 + i % 4 / 2 * 8;
    d[row * kColumns + i / 4 * 8 + lane % 4 * 2 + i % 2] = sums[i / 4][i % 4];
  }
  wgmma_wait<0>();
}

using Bf16Kernel = void (*)(const uint16_t*, const uint16_t*, float*, Fault);

struct Bf16Form {
  Bf16Kernel kernel;
  int columns;
  bool transposed;
};
constexpr Bf16Form kBf16Forms[] = {{MultiplyBf16<64, false>, 64, false},
                                   {MultiplyBf16<8, false>, 8, false},
                                   {MultiplyBf16<64, true>, 64, true},
                                   {MultiplyBf16<128, true>, 128, true}};

class WgmmaBf16Test : public testing::TestWithParam<emu::Options> {
 protected:
  // Whole numbers of which every sum is exact.
  WgmmaBf16Test() {
    std::mt19937 random(5);
    for (float& v : a_) v = static_cast<float>(static_cast<int>(random() % 255) - 127);
    for (float& v : b_) v = static_cast<float>(static_cast<int>(random() % 255) - 127);
  }
  ~WgmmaBf16Test() override { cudaDeviceReset(); }

  std::vector<float> Expected(const Bf16Form& form) const {
    std::vector<float> d(64 * form.columns, 0.0f);
    for (int i = 0; i < 64 * form.columns; ++i) {
      const int m = i / form.columns, n = i % form.columns;
      for (int k = 0; k < 32; ++k) {
        d[i] += a_[m * 32 + k] * b_[form.transposed ? k * form.columns + n : n * 64 + 32 + k];
      }
    }
    return d;
  }

  std::vector<float> Run(const Bf16Form& form, Fault fault) const {
    const DeviceArray<uint16_t> a(Narrow(a_)), b(Narrow(b_));
    const DeviceArray<float> d(64 * form.columns);
    Launch("MultiplyBf16", form.kernel, {.grid = 1, .block = 128, .shared_bytes = 20 * 1024},
           a.data(), b.data(), d.data(), fault);
    return cudaDeviceSynchronize() == cudaSuccess ? d.ToHost() : std::vector<float>();
  }
  bool Finds(const Bf16Form& form, Fault fault, Violation violation) const {
    const Report report;
    Run(form, fault);
    cudaDeviceReset();
    return report.Has(violation);
  }

 private:
  static std::vector<uint16_t> Narrow(const std::vector<float>& values) {
    std::vector<uint16_t> narrow;
    for (const float v : values) narrow.push_back(to_bf16(v));
    return narrow;
  }

  emu::ScopedOptions options_{GetParam()};
  std::vector<float> a_ = std::vector<float>(64 * 32);
  std::vector<float> b_ = std::vector<float>(64 * 64);
};

INSTANTIATE_TEST_SUITE_P(Orders, WgmmaBf16Test, testing::ValuesIn(emu::AllOrders()));

TEST_P(WgmmaBf16Test, IsTheNaiveProduct) {
  for (const Bf16Form& form : kBf16Forms) EXPECT_EQ(Run(form, Fault::kNone), Expected(form));
}

TEST_P(WgmmaBf16Test, StoresNeedAFenceAndThenABarrier) {
  for (const Bf16Form& form : kBf16Forms) {
    EXPECT_TRUE(Finds(form, Fault::kNoProxyFence, Violation::kAsyncCopy));
    EXPECT_TRUE(Finds(form, Fault::kLateProxyFence, Violation::kAsyncCopy));
  }
}

TEST_P(WgmmaBf16Test, RowsStayUntilItEndsAndBeginWhereTheSwizzleDoes) {
  for (const Bf16Form& form : kBf16Forms) {
    EXPECT_TRUE(Finds(form, Fault::kEarlyOverwrite, Violation::kSharedRace));
    EXPECT_TRUE(Finds(form, Fault::kMisplacedRows, Violation::kInvalidArgument));
  }
}

TEST_P(WgmmaBf16Test, RegistersAreReadAndWrittenWhenItEnds) {
  for (const Bf16Form& form : kBf16Forms) {
    EXPECT_NE(Run(form, Fault::kLateRegister), Expected(form));
    EXPECT_NE(Run(form, Fault::kEarlyRead), Expected(form));
  }
}

}  // namespace
}  // namespace intermix::cuda
