// Operations and bytes, counted by hand.
#include "runtime/bench/work.h"

#include <vector>

#include "gtest/gtest.h"

namespace intermix {
namespace {

class FakeWeight final : public PackedWeight {
 public:
  FakeWeight(int64_t n, int64_t k, bool quantized, int64_t bytes)
      : PackedWeight(n, k, quantized), bytes_(bytes) {}
  int64_t bytes() const override { return bytes_; }

 private:
  int64_t bytes_;
};

TEST(WorkTest, ALinearLayerIsItsProductsAndItsWeights) {
  const FakeWeight weight(10, 64, true, 320 + 40);
  const Work work = LinearWork(weight, 3);
  EXPECT_EQ(work.int8_ops, 2 * 3 * 10 * 64);
  EXPECT_EQ(work.float_ops, 0.0);
  EXPECT_EQ(work.bytes, 360.0);
  EXPECT_EQ(work.Of(Resource::kInt8), work.int8_ops);
  EXPECT_EQ(work.Of(Resource::kBytes), work.bytes);
}

TEST(WorkTest, AnUnquantisedOneIsFloats) {
  const Work work = LinearWork(FakeWeight(10, 64, false, 1280), 1);
  EXPECT_EQ(work.int8_ops, 0.0);
  EXPECT_EQ(work.Of(Resource::kFloat), 1280.0);
}

TEST(WorkTest, ExpertsWithoutRowsCostNothing) {
  const FakeWeight a(4, 8, true, 100);
  const FakeWeight b(4, 8, true, 1000);
  const FakeWeight c(4, 8, true, 10000);
  const std::vector<const PackedWeight*> weights = {&a, &b, &c};
  const Work work = GroupedLinearWork(weights, std::vector<int32_t>{0, 2, 2, 7});
  EXPECT_EQ(work.bytes, 10100.0);
  EXPECT_EQ(work.int8_ops, 2.0 * 7 * 4 * 8);
}

TEST(WorkTest, AttentionReadsEachSequenceOnce) {
  // Sequence 0: rows at positions 2 and 3. Sequence 1: one row at position 9.
  const std::vector<int32_t> positions = {2, 3, 9};
  const std::vector<int32_t> starts = {0, 2, 3};
  KvLayer cache{.k = Tensor(nullptr, DType::kBF16, {5, 2, 16, 8})};
  const Work work = AttentionWork(AttentionShapeOf(cache, 4), positions, starts);
  EXPECT_EQ(work.float_ops, 4.0 * (4 * 8) * (3 + 4 + 10));
  EXPECT_EQ(work.bytes, 2.0 * 2 * (2 * 8) * (4 + 10));
  cache = {.k = Tensor(nullptr, DType::kI8, {5, 2, 16, 8}),
           .k_scales = Tensor(nullptr, DType::kF32, {5, 2, 16})};
  const Work quantized = AttentionWork(AttentionShapeOf(cache, 4), positions, starts);
  EXPECT_EQ(quantized.float_ops, work.float_ops);
  EXPECT_EQ(quantized.bytes, 2.0 * 2 * (8 + 4) * (4 + 10));
}

TEST(WorkTest, WorkAddsUp) {
  Work work{.int8_ops = 1.0, .float_ops = 2.0, .bytes = 3.0};
  work += {.int8_ops = 10.0, .float_ops = 20.0, .bytes = 30.0};
  EXPECT_EQ(work.int8_ops, 11.0);
  EXPECT_EQ(work.float_ops, 22.0);
  EXPECT_EQ(work.bytes, 33.0);
}

}  // namespace
}  // namespace intermix
