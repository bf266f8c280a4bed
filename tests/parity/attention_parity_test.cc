// Rotary embedding and paged attention, on every instruction set and number of threads, equal
// ReferenceBackend bit for bit: ragged head sizes, shuffled blocks, several splits, shared K/V
// heads.
#include <cmath>
#include <cstring>

#include "tests/parity/parity_test_base.h"
#include "tests/testing/attention_cases.h"

namespace intermix {
namespace {

std::vector<AttentionCase> Cases() {
  return {
      {.head_dim = 16, .block_size = 16, .kv_head_of = {0, 1}, .past = {0}, .rows = {0}},
      {.head_dim = 2, .block_size = 3, .kv_head_of = {0}, .past = {0, 5}, .rows = {4, 1}},
      {.head_dim = 64,
       .block_size = 16,
       .kv_head_of = {0, 0, 0, 0, 1, 1, 1, 1},
       .past = {0, 30, 255, 256, 511},
       .rows = {17, 3, 1, 1, 4}},
      {.head_dim = 128,
       .block_size = 24,
       .kv_head_of = {0, 0, 1, 2, 2, 2},
       .past = {700},
       .rows = {1}},
      {.head_dim = 40,
       .block_size = 256,
       .kv_head_of = {1, 0, 1},
       .past = {300, 0},
       .rows = {5, 20}},
      {.head_dim = 80, .block_size = 16, .kv_head_of = {0}, .past = {1100}, .rows = {2}},
      // Neighbouring rows of which some end in a split and others reach beyond it.
      {.head_dim = 32, .block_size = 16, .kv_head_of = {0, 0, 1, 1}, .past = {500}, .rows = {30}},
      // Enough single rows that one work item has several K/V heads.
      {.head_dim = 48,
       .block_size = 16,
       .kv_head_of = {0, 0, 1, 2, 2},
       .past = {0, 600, 255, 256, 31, 300, 511, 512, 5, 17, 260, 90, 700},
       .rows = std::vector<int32_t>(13, 1)},
  };
}

class AttentionParityTest : public ParityTest {};

TEST_P(AttentionParityTest, RopeAndStoreKv) {
  for (const AttentionCase& c : Cases()) {
    SCOPED_TRACE(c.head_dim);
    const AttentionInputs in = MakeAttentionInputs(c);
    const int64_t kv_cols = c.num_kv_heads() * c.head_dim;
    const int64_t positions = in.num_blocks * c.num_kv_heads() * c.block_size;
    const OwnedTensor q = RandomTensor(DType::kF32, {c.num_rows(), c.num_heads() * c.head_dim}, 2);
    // Among them zeros and values that are not finite.
    const OwnedTensor k = HostileRows(DType::kF32, c.num_rows(), kv_cols, 3);
    const OwnedTensor v = HostileRows(DType::kF32, c.num_rows(), kv_cols, 4);
    const OwnedTensor rope = RandomTensor(DType::kF32, {in.max_length, c.head_dim}, 5);
    // q and k are rotated in place, so each run gets copies; `pick` picks the output to compare.
    const auto run = [&](DType dtype, const auto& pick) {
      return [&, dtype](Backend& backend, const Tensor& out) {
        const OwnedTensor q_copy = OwnedTensor::Host(DType::kF32, {q.view.rows(), q.view.cols()});
        const OwnedTensor k_copy = OwnedTensor::Host(DType::kF32, {k.view.rows(), k.view.cols()});
        std::memcpy(q_copy.view.raw(), q.view.raw(), static_cast<size_t>(q.view.bytes()));
        std::memcpy(k_copy.view.raw(), k.view.raw(), static_cast<size_t>(k.view.bytes()));
        const AttentionCache cache = ZeroCache(c, in.num_blocks, dtype);
        backend.RopeAndStoreKv(q_copy.view, k_copy.view, v.view, rope.view, in.rows(),
                               cache.layer());
        const Tensor result = pick(q_copy.view, k_copy.view, cache.layer());
        std::memcpy(out.raw(), result.raw(), static_cast<size_t>(out.bytes()));
      };
    };
    using T = const Tensor&;
    using Layer = const KvLayer&;
    ExpectSame(DType::kF32, {q.view.rows(), q.view.cols()},
               run(DType::kBF16, [](T rotated, T, Layer) { return rotated; }));
    ExpectSame(DType::kF32, {k.view.rows(), k.view.cols()},
               run(DType::kBF16, [](T, T rotated, Layer) { return rotated; }));
    for (const DType dtype : kCacheDTypes) {
      ExpectSame(dtype, {positions, c.head_dim},
                 run(dtype, [](T, T, Layer cache) { return cache.k; }));
      ExpectSame(dtype, {positions, c.head_dim},
                 run(dtype, [](T, T, Layer cache) { return cache.v; }));
    }
    ExpectSame(DType::kF32, {positions},
               run(DType::kI8, [](T, T, Layer cache) { return cache.k_scales; }));
    ExpectSame(DType::kF32, {positions},
               run(DType::kI8, [](T, T, Layer cache) { return cache.v_scales; }));
  }
}

TEST_P(AttentionParityTest, PagedAttention) {
  for (const AttentionCase& c : Cases()) {
    for (const DType dtype : kCacheDTypes) {
      for (const double stddev : {1.0, 8.0}) {  // flat scores, then nearly one-hot ones
        SCOPED_TRACE(::testing::Message() << c.head_dim << " of " << Name(dtype));
        const AttentionInputs in = MakeAttentionInputs(c);
        const OwnedTensor q =
            RandomTensor(DType::kF32, {c.num_rows(), c.num_heads() * c.head_dim}, 6, stddev);
        const AttentionCache cache = RandomCache(c, in.num_blocks, dtype, 7);
        const float scale = 1.0f / std::sqrt(static_cast<float>(c.head_dim));
        ExpectSame(DType::kBF16, {c.num_rows(), c.num_heads() * c.head_dim},
                   [&](Backend& backend, const Tensor& out) {
                     backend.PagedAttention(q.view, in.rows(), cache.layer(), c.kv_head_of, scale,
                                            out);
                   });
      }
    }
  }
}

// Values that cancel between the first two splits: in any other order the third one's bits drown.
TEST_P(AttentionParityTest, SplitsMergeInAscendingOrder) {
  const AttentionCase c = {.head_dim = 32,
                           .block_size = kAttentionSplit,
                           .kv_head_of = {0, 1},
                           .past = {3 * kAttentionSplit - 1},
                           .rows = {1}};
  const AttentionInputs in = MakeAttentionInputs(c);
  const OwnedTensor q = OwnedTensor::Host(DType::kF32, {1, 64});  // zero: all weights are 1
  const AttentionCache cache = RandomCache(c, in.num_blocks, DType::kBF16, 7);
  const int32_t* table = in.block_tables.view.row<int32_t>(0);
  const auto* first = cache.v.view.row<BFloat16>(table[0]);
  for (int64_t i = 0; i < cache.v.view.stride(0); ++i) {
    const float large = std::ldexp(static_cast<float>(first[i]), 20);
    cache.v.view.row<BFloat16>(table[0])[i] = BFloat16(large);
    cache.v.view.row<BFloat16>(table[1])[i] = BFloat16(-large);
  }
  ExpectSame(DType::kBF16, {1, 64}, [&](Backend& backend, const Tensor& out) {
    backend.PagedAttention(q.view, in.rows(), cache.layer(), c.kv_head_of, 0.2f, out);
    double sum = 0.0;
    for (int64_t d = 0; d < 64; ++d) sum += std::fabs(static_cast<float>(out.row<BFloat16>(0)[d]));
    EXPECT_GT(sum, 0.0);
    EXPECT_LT(sum, 64.0);
  });
}

// A NaN or infinity in one row's query stays in that row; one in a position's key or value reaches
// the rows that see the position.
TEST_P(AttentionParityTest, NanStaysWhereItIsSeen) {
  const AttentionCase c = {
      .head_dim = 32, .block_size = 16, .kv_head_of = {0, 0, 1}, .past = {290}, .rows = {4}};
  const AttentionInputs in = MakeAttentionInputs(c);
  const OwnedTensor q = RandomTensor(DType::kF32, {4, 96}, 6);
  q.view.row<float>(1)[5] = std::nanf("");
  q.view.row<float>(2)[70] = HUGE_VALF;
  for (const DType dtype : kCacheDTypes) {
    const AttentionCache cache = RandomCache(c, in.num_blocks, dtype, 7);
    if (dtype == DType::kI8) {  // the last position, which row 3 alone sees
      const int32_t slot = in.slots.view.data<int32_t>()[3];
      cache.v_scales.view.At(slot / 16).At(1).data<float>()[slot % 16] = std::nanf("");
    }
    ExpectSame(DType::kBF16, {4, 96}, [&](Backend& backend, const Tensor& out) {
      backend.PagedAttention(q.view, in.rows(), cache.layer(), c.kv_head_of, 0.2f, out);
      EXPECT_FALSE(std::isnan(static_cast<float>(out.row<BFloat16>(0)[95])));
      EXPECT_TRUE(std::isnan(static_cast<float>(out.row<BFloat16>(1)[5])));
      EXPECT_EQ(std::isnan(static_cast<float>(out.row<BFloat16>(3)[95])), dtype == DType::kI8);
      EXPECT_FALSE(std::isnan(static_cast<float>(out.row<BFloat16>(3)[5])));
    });
  }
}

INSTANTIATE_TEST_SUITE_P(, AttentionParityTest, AllIsas(), IsaName);

}  // namespace
}  // namespace intermix
