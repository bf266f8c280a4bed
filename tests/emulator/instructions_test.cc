// Correct kernels give the right results in every thread order: shared memory and barriers, mma and
// ldmatrix against a naive product, a cp.async pipeline, shuffles, atomics, arithmetic.
#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/ptx.h"
#include "tests/emulator/testing.h"

namespace intermix::cuda {
namespace {

using emu::DeviceArray;

class InstructionsTest : public testing::TestWithParam<emu::Options> {
 protected:
  emu::ScopedOptions options_{GetParam()};
};

INSTANTIATE_TEST_SUITE_P(Orders, InstructionsTest, testing::ValuesIn(emu::AllOrders()));

// Each block adds two vectors by way of shared memory, each thread reading its neighbour's sum.
__global__ void AddShifted(const float* a, const float* b, float* out, int n) {
  float* sums = reinterpret_cast<float*>(shared_memory());
  const int t = static_cast<int>(threadIdx.x), size = static_cast<int>(blockDim.x);
  const int i = static_cast<int>(blockIdx.x) * size + t;
  if (i < n) sums[t] = add_rn(a[i], b[i]);
  sync_block();
  const int first = static_cast<int>(blockIdx.x) * size;
  const int here = min(size, n - first);
  if (i < n) out[i] = sums[(t + 1) % here];
}

TEST_P(InstructionsTest, SharedMemoryCarriesSumsAcrossABarrier) {
  const int n = 1000;
  std::vector<float> a(n), b(n);
  for (int i = 0; i < n; ++i) {
    a[i] = static_cast<float>(i);
    b[i] = 0.5f * static_cast<float>(i % 7);
  }
  const DeviceArray<float> da(a), db(b), out(n);
  Launch("AddShifted", AddShifted, {.grid = 4, .block = 256, .shared_bytes = 1024}, da.data(),
         db.data(), out.data(), n);
  const std::vector<float> result = out.ToHost();
  for (int i = 0; i < n; ++i) {
    const int first = i / 256 * 256, size = std::min(256, n - first);
    const int j = first + (i - first + 1) % size;
    ASSERT_EQ(result[i], a[j] + b[j]) << i;
  }
}

// One warp multiplies A [16, 32] by B [32, 8]; fragments come from memory in the layout of the PTX
// tables, written element by element.
__global__ void MultiplyS8(const int8_t* a, const int8_t* b, int32_t* d) {
  const int lane = static_cast<int>(threadIdx.x), group = lane >> 2, t = lane & 3;
  uint32_t fa[4] = {}, fb[2] = {};
  for (int i = 0; i < 16; ++i) {
    const int row = (i < 4 || (i >= 8 && i < 12)) ? group : group + 8;
    const int column = i < 8 ? t * 4 + (i & 3) : t * 4 + (i & 3) + 16;
    fa[i / 4] |= static_cast<uint32_t>(static_cast<uint8_t>(a[row * 32 + column])) << (8 * (i % 4));
  }
  for (int i = 0; i < 8; ++i) {
    const int row = i < 4 ? t * 4 + (i & 3) : t * 4 + (i & 3) + 16;
    fb[i / 4] |= static_cast<uint32_t>(static_cast<uint8_t>(b[row * 8 + group])) << (8 * (i % 4));
  }
  int32_t acc[4];
  for (int i = 0; i < 4; ++i) acc[i] = d[(i < 2 ? group : group + 8) * 8 + t * 2 + (i & 1)];
  mma_m16n8k32_s8(acc, fa, fb);
  for (int i = 0; i < 4; ++i) d[(i < 2 ? group : group + 8) * 8 + t * 2 + (i & 1)] = acc[i];
}

TEST_P(InstructionsTest, MmaS8IsTheNaiveProduct) {
  std::mt19937 random(1);
  std::vector<int8_t> a(16 * 32), b(32 * 8);
  std::vector<int32_t> d(16 * 8);
  for (int8_t& v : a) v = static_cast<int8_t>(random());
  for (int8_t& v : b) v = static_cast<int8_t>(random());
  for (int32_t& v : d) v = static_cast<int32_t>(random());  // sums wrap
  const DeviceArray<int8_t> da(a), db(b);
  const DeviceArray<int32_t> dd(d);
  Launch("MultiplyS8", MultiplyS8, {.grid = 1, .block = 32}, da.data(), db.data(), dd.data());
  const std::vector<int32_t> result = dd.ToHost();
  for (int m = 0; m < 16; ++m) {
    for (int n = 0; n < 8; ++n) {
      uint32_t sum = static_cast<uint32_t>(d[m * 8 + n]);
      for (int k = 0; k < 32; ++k) sum += static_cast<uint32_t>(a[m * 32 + k] * b[k * 8 + n]);
      EXPECT_EQ(result[m * 8 + n], static_cast<int32_t>(sum)) << m << ", " << n;
    }
  }
}

// A [16, 16] by B [16, 8] in bf16: A through ldmatrix, B [8, 16] transposed through ldmatrix too
// (its two registers), once more from B [16, 8] through the .trans form.
__global__ void MultiplyBf16(const uint16_t* a, const uint16_t* b, float* d, float* d_trans) {
  uint16_t* sa = reinterpret_cast<uint16_t*>(shared_memory());
  uint16_t* sb = sa + 16 * 16;   // [16, 8]
  uint16_t* sb_t = sb + 16 * 8;  // [8, 16]
  const int lane = static_cast<int>(threadIdx.x), group = lane >> 2, t = lane & 3;
  for (int i = lane; i < 16 * 16; i += 32) sa[i] = a[i];
  for (int i = lane; i < 16 * 8; i += 32) {
    sb[i] = b[i];
    sb_t[i % 8 * 16 + i / 8] = b[i];
  }
  sync_warp();
  uint32_t fa[4], fb[4], fb_t[4];
  ldmatrix_x4(fa, sa + (lane & 15) * 16 + (lane >> 4) * 8);
  ldmatrix_x4(fb, sb_t + (lane & 7) * 16 + ((lane >> 3) & 1) * 8);
  ldmatrix_x4_trans(fb_t, sb + (lane & 15) * 8);
  float acc[4] = {}, acc_t[4] = {};
  mma_m16n8k16_bf16(acc, fa, {fb[0], fb[1]});
  mma_m16n8k16_bf16(acc_t, fa, {fb_t[0], fb_t[1]});
  for (int i = 0; i < 4; ++i) {
    const int at = (i < 2 ? group : group + 8) * 8 + t * 2 + (i & 1);
    d[at] = acc[i];
    d_trans[at] = acc_t[i];
  }
}

TEST_P(InstructionsTest, MmaBf16AndLdmatrixGiveTheNaiveProduct) {
  std::mt19937 random(2);
  const auto small = [&random] { return static_cast<float>(static_cast<int>(random() % 33) - 16); };
  std::vector<float> a(16 * 16), b(16 * 8);
  std::vector<uint16_t> a16, b16;
  for (float& v : a) a16.push_back(to_bf16(v = small()));
  for (float& v : b) b16.push_back(to_bf16(v = small()));
  const DeviceArray<uint16_t> da(a16), db(b16);
  const DeviceArray<float> d(16 * 8), d_trans(16 * 8);
  Launch("MultiplyBf16", MultiplyBf16, {.grid = 1, .block = 32, .shared_bytes = 1024}, da.data(),
         db.data(), d.data(), d_trans.data());
  const std::vector<float> result = d.ToHost(), result_trans = d_trans.ToHost();
  for (int m = 0; m < 16; ++m) {
    for (int n = 0; n < 8; ++n) {
      float sum = 0;  // small integers: exact
      for (int k = 0; k < 16; ++k) sum += a[m * 16 + k] * b[k * 8 + n];
      EXPECT_EQ(result[m * 8 + n], sum) << m << ", " << n;
      EXPECT_EQ(result_trans[m * 8 + n], sum) << m << ", " << n;
    }
  }
}

// Sums a row of `tiles` tiles of 512 bytes that a three-stage pipeline brings in.
__global__ void SumPipelined(const int32_t* in, int tiles, int32_t* out) {
  constexpr int kStages = 3, kTile = 128;
  int32_t* stages = reinterpret_cast<int32_t*>(shared_memory());
  const int t = static_cast<int>(threadIdx.x);  // 32 threads of 4 values each
  const auto fetch = [&](int tile) {
    cp_async_16(stages + tile % kStages * kTile + 4 * t, in + tile * kTile + 4 * t, tile < tiles);
    cp_async_commit();
  };
  for (int tile = 0; tile < kStages - 1; ++tile) fetch(tile);
  int32_t sum = 0;
  for (int tile = 0; tile < tiles; ++tile) {
    cp_async_wait<kStages - 2>();
    sync_block();
    const int32_t* values = stages + tile % kStages * kTile;
    for (int i = t; i < kTile; i += 32) sum += values[i];
    fetch(tile + kStages - 1);
  }
  for (int mask = 16; mask > 0; mask /= 2) sum += shfl_xor_s32(sum, mask);
  if (t == 0) *out = sum;
}

TEST_P(InstructionsTest, CpAsyncPipelineDeliversEveryTile) {
  const int tiles = 7;
  std::vector<int32_t> values(tiles * 128);
  int32_t expected = 0;
  for (size_t i = 0; i < values.size(); ++i) expected += values[i] = static_cast<int32_t>(i * i);
  const DeviceArray<int32_t> in(values), out(1);
  Launch("SumPipelined", SumPipelined, {.grid = 1, .block = 32, .shared_bytes = 3 * 512}, in.data(),
         tiles, out.data());
  EXPECT_EQ(out.ToHost()[0], expected);
}

__global__ void CountBallots(int32_t* counter, uint32_t* masks) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const uint32_t odd = ballot(lane % 2 == 1);
  const int32_t from_five = shfl_s32(lane, 5);
  const int warp = static_cast<int>(blockIdx.x * 2 + threadIdx.x / 32);
  if (lane == 0) masks[warp] = odd + static_cast<uint32_t>(from_five);
  red_add_s32(counter, lane);
}

TEST_P(InstructionsTest, BallotsShufflesAndAtomics) {
  const DeviceArray<int32_t> counter(std::vector<int32_t>{0});
  const DeviceArray<uint32_t> masks(6);
  Launch("CountBallots", CountBallots, {.grid = 3, .block = 64}, counter.data(), masks.data());
  EXPECT_EQ(counter.ToHost()[0], 3 * 2 * 496);
  EXPECT_EQ(masks.ToHost(), std::vector<uint32_t>(6, 0xAAAAAAAA + 5));
}

TEST(ArithmeticTest, FollowsThePtxTables) {
  EXPECT_EQ(prmt(0x33221100, 0x77665544, 0x7531), 0x77553311u);
  EXPECT_EQ(prmt(0x80FF7F01, 0, 0xBA98), 0xFFFF0000u);                     // signs
  EXPECT_EQ(fma_bf16x2(0x43804300, 0x3F803F80, 0xC37EC300), 0x40000000u);  // 256 - 254, 128 - 128
  EXPECT_DEATH(fma_bf16x2(0x3F80, 0x3F80, 0x4380), "rounds 257");
  EXPECT_EQ(round_s32(2.5f), 2);
  EXPECT_EQ(round_s32(-3.5f), -4);
  EXPECT_EQ(round_s32(3e9f), INT32_MAX);
  EXPECT_EQ(round_s32(NAN), 0);
  EXPECT_EQ(to_bf16(1.00390625f), 0x3F80);  // a tie goes to even
  EXPECT_EQ(to_bf16(1.01171875f), 0x3F82);
  EXPECT_EQ(to_bf16(NAN), 0x7FFF);
  EXPECT_EQ(to_bf16x2(1.0f, -2.0f), 0xC0003F80u);
  EXPECT_EQ(exp2_approx(0.0f), 1.0f);
  EXPECT_EQ(exp2_approx(-0x1p-140f), 1.0f);
  EXPECT_EQ(exp2_approx(-INFINITY), 0.0f);
  EXPECT_EQ(exp2_approx(-126.5f), 0.0f);  // no normal number
  EXPECT_TRUE(std::isnan(exp2_approx(NAN)));
  EXPECT_EQ(max_nan(-INFINITY, 3.0f), 3.0f);
  EXPECT_TRUE(std::isnan(max_nan(NAN, 3.0f)) && std::isnan(max_nan(3.0f, NAN)));
}

}  // namespace
}  // namespace intermix::cuda
