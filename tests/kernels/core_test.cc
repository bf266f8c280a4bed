// kernels/core: dtypes, tensor views, buffers, the workspace, and the shared float operations.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "gtest/gtest.h"
#include "kernels/core/buffer.h"
#include "kernels/core/dtype.h"
#include "kernels/core/lane_math.h"
#include "kernels/core/tensor.h"

namespace intermix {
namespace {

TEST(BFloat16Test, RoundsToNearestEvenAndKeepsNan) {
  EXPECT_EQ(BFloat16(1.0f).bits, 0x3F80);
  EXPECT_EQ(BFloat16(std::bit_cast<float>(0x3F808000u)).bits, 0x3F80);  // tie to even
  EXPECT_EQ(BFloat16(std::bit_cast<float>(0x3F818000u)).bits, 0x3F82);
  EXPECT_EQ(BFloat16(std::bit_cast<float>(0x3F808001u)).bits, 0x3F81);
  EXPECT_TRUE(std::isnan(static_cast<float>(BFloat16(std::nanf("")))));
  EXPECT_TRUE(std::isinf(static_cast<float>(BFloat16(std::numeric_limits<float>::max()))));
}

TEST(HalfToFloatTest, KnownValues) {
  EXPECT_EQ(HalfToFloat(0x3C00), 1.0f);
  EXPECT_EQ(HalfToFloat(0xC000), -2.0f);
  EXPECT_EQ(HalfToFloat(0x0001), 0x1p-24f);
  EXPECT_EQ(HalfToFloat(0x7BFF), 65504.0f);
  EXPECT_TRUE(std::isinf(HalfToFloat(0x7C00)));
  EXPECT_TRUE(std::isnan(HalfToFloat(0x7E00)));
}

TEST(TensorTest, SlicesAreViewsWithStrides) {
  OwnedTensor t = OwnedTensor::Host(DType::kI32, {3, 4});
  for (int i = 0; i < 12; ++i) t.view.data<int32_t>()[i] = i;
  const Tensor s = t.view.Rows(1, 3).Cols(2, 4);
  EXPECT_EQ(s.rows(), 2);
  EXPECT_EQ(s.cols(), 2);
  EXPECT_FALSE(s.contiguous());
  EXPECT_EQ(s.row<int32_t>(0)[0], 6);
  EXPECT_EQ(s.row<int32_t>(1)[1], 11);
  EXPECT_EQ(t.view.At(2).data<int32_t>()[0], 8);
  EXPECT_DEATH(t.view.data<float>(), "tensor is I32, not F32");
}

TEST(WorkspaceTest, ScopesNestAndMemoryIsReused) {
  int allocations = 0;
  Workspace ws([&](size_t bytes) {
    ++allocations;
    return Buffer::Host(bytes);
  });
  void* first = nullptr;
  for (int step = 0; step < 3; ++step) {
    const Workspace::Scope scope(ws);
    const Tensor a = ws.Take(DType::kF32, {1000});
    if (step == 0) first = a.raw();
    EXPECT_EQ(a.raw(), first);
    {
      const Workspace::Scope inner(ws);
      EXPECT_NE(ws.Take(DType::kU8, {1 << 20}).raw(), a.raw());
    }
    const Tensor b = ws.Take(DType::kI8, {3, 5});
    EXPECT_EQ(reinterpret_cast<uintptr_t>(b.raw()) % 64, 0u);
  }
  EXPECT_LE(allocations, 2);
}

TEST(LaneMathTest, ExpIsCloseToDoubleExp) {
  for (float x = -87.0f; x < 88.5f; x += 0.0137f) {
    const double expected = std::exp(static_cast<double>(x));
    EXPECT_NEAR(LaneExp(x) / expected, 1.0, 2e-7) << x;
  }
  EXPECT_EQ(LaneExp(0.0f), 1.0f);
  EXPECT_EQ(LaneExp(-100.0f), 0.0f);
  EXPECT_EQ(LaneExp(-std::numeric_limits<float>::infinity()), 0.0f);
  EXPECT_TRUE(std::isinf(LaneExp(89.0f)));
  EXPECT_TRUE(std::isnan(LaneExp(std::nanf(""))));
}

TEST(LaneMathTest, DotFollowsTheSixteenLaneOrder) {
  // 2^24 + 1 + 1: lost in sequential float addition, kept when the ones meet in one lane first.
  float a[33] = {};
  float b[33];
  for (float& x : b) x = 1.0f;
  a[0] = 16777216.0f;
  a[1] = 1.0f;
  a[17] = 1.0f;
  EXPECT_EQ(LaneDot(a, b, 33), 16777218.0f);
  a[17] = 0.0f;
  a[16] = 1.0f;  // same lane as the large one: rounds away
  EXPECT_EQ(LaneDot(a, b, 33), 16777216.0f);
}

TEST(LaneMathTest, RoundToIntTiesToEven) {
  EXPECT_EQ(RoundToInt(0.5f), 0);
  EXPECT_EQ(RoundToInt(1.5f), 2);
  EXPECT_EQ(RoundToInt(-2.5f), -2);
  EXPECT_EQ(RoundToInt(126.7f), 127);
}

TEST(BufferTest, UntouchedMemoryIsZeroAlignedAndWritable) {
  for (const size_t bytes : {size_t{1}, size_t{4096}, (size_t{8} << 20) + 12345}) {
    const Buffer buffer = Buffer::HostUntouched(bytes);
    EXPECT_EQ(buffer.bytes(), bytes);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer.data()) % 64, 0u);
    auto* data = static_cast<uint8_t*>(buffer.data());
    EXPECT_TRUE(std::all_of(data, data + bytes, [](uint8_t byte) { return byte == 0; })) << bytes;
    std::fill(data, data + bytes, uint8_t{7});
    EXPECT_EQ(data[bytes - 1], 7);
  }
}

}  // namespace
}  // namespace intermix
