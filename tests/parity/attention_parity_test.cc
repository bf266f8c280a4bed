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
    const OwnedTensor q = RandomTensor(DType::kF32, {c.num_rows(), c.num_heads() * c.head_dim}, 2);
    const OwnedTensor k = RandomTensor(DType::kF32, {c.num_rows(), kv_cols}, 3);
    const OwnedTensor v = RandomTensor(DType::kF32, {c.num_rows(), kv_cols}, 4);
    const OwnedTensor rope = RandomTensor(DType::kF32, {in.max_length, c.head_dim}, 5);
    // q and k are rotated in place, so each run gets copies; `take` picks the output to compare.
    const auto run = [&](Backend& backend, const Tensor& out, int take) {
      const OwnedTensor q_copy = OwnedTensor::Host(DType::kF32, {q.view.rows(), q.view.cols()});
      const OwnedTensor k_copy = OwnedTensor::Host(DType::kF32, {k.view.rows(), k.view.cols()});
      const OwnedTensor cache = OwnedTensor::Host(
          DType::kBF16, {2, in.num_blocks, c.num_kv_heads(), c.block_size * c.head_dim});
      const auto cache_of = [&](int64_t i) {
        return Tensor(cache.view.At(i).raw(), DType::kBF16,
                      {in.num_blocks, c.num_kv_heads(), c.block_size, c.head_dim});
      };
      std::memcpy(q_copy.view.raw(), q.view.raw(), static_cast<size_t>(q.view.bytes()));
      std::memcpy(k_copy.view.raw(), k.view.raw(), static_cast<size_t>(k.view.bytes()));
      backend.RopeAndStoreKv(q_copy.view, k_copy.view, v.view, rope.view, in.rows(),
                             {.k = cache_of(0), .v = cache_of(1)});
      const Tensor& result = take == 0 ? q_copy.view : take == 1 ? k_copy.view : cache.view;
      std::memcpy(out.raw(), result.raw(), static_cast<size_t>(out.bytes()));
    };
    ExpectSame(DType::kF32, {q.view.rows(), q.view.cols()},
               [&](Backend& backend, const Tensor& out) { run(backend, out, 0); });
    ExpectSame(DType::kF32, {k.view.rows(), k.view.cols()},
               [&](Backend& backend, const Tensor& out) { run(backend, out, 1); });
    ExpectSame(DType::kBF16, {2 * in.num_blocks, kv_cols * c.block_size},
               [&](Backend& backend, const Tensor& out) { run(backend, out, 2); });
  }
}

TEST_P(AttentionParityTest, PagedAttention) {
  for (const AttentionCase& c : Cases()) {
    for (const double stddev : {1.0, 8.0}) {  // flat scores, then nearly one-hot ones
      SCOPED_TRACE(c.head_dim);
      const AttentionInputs in = MakeAttentionInputs(c);
      const OwnedTensor q =
          RandomTensor(DType::kF32, {c.num_rows(), c.num_heads() * c.head_dim}, 6, stddev);
      const OwnedTensor k = RandomTensor(
          DType::kBF16, {in.num_blocks, c.num_kv_heads(), c.block_size, c.head_dim}, 7);
      const OwnedTensor v = RandomTensor(
          DType::kBF16, {in.num_blocks, c.num_kv_heads(), c.block_size, c.head_dim}, 8);
      const float scale = 1.0f / std::sqrt(static_cast<float>(c.head_dim));
      ExpectSame(DType::kBF16, {c.num_rows(), c.num_heads() * c.head_dim},
                 [&](Backend& backend, const Tensor& out) {
                   backend.PagedAttention(q.view, in.rows(), {.k = k.view, .v = v.view},
                                          c.kv_head_of, scale, out);
                 });
    }
  }
}

// A NaN or infinity in one row's query stays in that row.
TEST_P(AttentionParityTest, NanQueriesStayInTheirRows) {
  const AttentionCase c = {
      .head_dim = 32, .block_size = 16, .kv_head_of = {0, 0, 1}, .past = {290}, .rows = {4}};
  const AttentionInputs in = MakeAttentionInputs(c);
  const OwnedTensor q = RandomTensor(DType::kF32, {4, 96}, 6);
  q.view.row<float>(1)[5] = std::nanf("");
  q.view.row<float>(2)[70] = HUGE_VALF;
  const OwnedTensor k = RandomTensor(DType::kBF16, {in.num_blocks, 2, 16, 32}, 7);
  const OwnedTensor v = RandomTensor(DType::kBF16, {in.num_blocks, 2, 16, 32}, 8);
  ExpectSame(DType::kBF16, {4, 96}, [&](Backend& backend, const Tensor& out) {
    backend.PagedAttention(q.view, in.rows(), {.k = k.view, .v = v.view}, c.kv_head_of, 0.2f, out);
    EXPECT_FALSE(std::isnan(static_cast<float>(out.row<BFloat16>(0)[5])));
    EXPECT_TRUE(std::isnan(static_cast<float>(out.row<BFloat16>(1)[5])));
  });
}

INSTANTIATE_TEST_SUITE_P(, AttentionParityTest, AllIsas(), IsaName);

}  // namespace
}  // namespace intermix
