// The kernels of rope.cu equal ReferenceBackend bit for bit. Paged attention is within rounding of
// it, and a row's result is the same, bit for bit, whatever shares its launch: other rows of its
// sequence, other sequences, the block table, splits computed at once or one after the other; and
// on wgmma, where the device has it, as on mma.sync.
#include "kernels/cuda/attention.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <optional>
#include <vector>

#include "kernels/cuda/rope.h"
#include "tests/kernels/cuda/cuda_ops_test.h"
#include "tests/testing/attention_cases.h"

namespace intermix {
namespace {

// A cache in device memory.
struct DeviceCache {
  explicit DeviceCache(const AttentionCache& cache) : k(cache.k), v(cache.v) {
    if (!cache.layer().quantized()) return;
    k_scales.emplace(cache.k_scales);
    v_scales.emplace(cache.v_scales);
  }
  KvLayer layer() const {
    KvLayer layer = {.k = k.view, .v = v.view};
    if (k_scales.has_value()) {
      layer.k_scales = k_scales->view;
      layer.v_scales = v_scales->view;
    }
    return layer;
  }

  DeviceTensor k, v;
  std::optional<DeviceTensor> k_scales, v_scales;
};

class CudaRopeTest : public CudaOpsTest {
 protected:
  void ExpectSameRope(DType dtype);
};
INSTANTIATE_TEST_SUITE_P(, CudaRopeTest, ::testing::ValuesIn(cuda::AllKernelRuns()), RunName);

void CudaRopeTest::ExpectSameRope(DType dtype) {
  for (const int64_t head_dim : {2, 12, 16, 24, 64, 256}) {
    SCOPED_TRACE(::testing::Message() << head_dim << " of " << Name(dtype));
    const AttentionCase c = {.head_dim = head_dim,
                             .block_size = 8,
                             .kv_head_of = {0, 0, 1, 1, 2},
                             .past = {0, 13, 7},
                             .rows = {5, 1, 0}};
    const AttentionInputs in = MakeAttentionInputs(c);
    const int64_t kv_cols = 3 * head_dim;
    const OwnedTensor q = RandomTensor(DType::kF32, {6, 5 * head_dim + 4}, 1);
    // Rows 3 to 5 are zero, and with a NaN and an infinity.
    const OwnedTensor k = HostileRows(DType::kF32, 6, kv_cols, 2);
    const OwnedTensor v = HostileRows(DType::kF32, 6, kv_cols, 3);
    const OwnedTensor rope = RandomTensor(DType::kF32, {in.max_length, head_dim}, 4);
    const AttentionCache cache = RandomCache(c, in.num_blocks, dtype, 5);
    const DeviceTensor d_q(q), d_k(k), d_v(v), d_rope(rope);
    const DeviceCache d_cache(cache);
    const DeviceTensor d_positions(in.positions), d_slots(in.slots);
    reference().RopeAndStoreKv(q.view.Cols(4, q.view.cols()), k.view, v.view, rope.view, in.rows(),
                               cache.layer());
    cuda::RopeAndStoreKv({.q = d_q.view.Cols(4, q.view.cols()),
                          .k = d_k.view,
                          .v = d_v.view,
                          .rope = d_rope.view,
                          .rows = {.positions = d_positions.view, .slots = d_slots.view},
                          .cache = d_cache.layer()},
                         nullptr);
    ExpectSame(d_q, q);
    ExpectSame(d_k, k);
    ExpectSame(d_cache.k, cache.k);
    ExpectSame(d_cache.v, cache.v);
    if (dtype == DType::kBF16) continue;
    ExpectSame(*d_cache.k_scales, cache.k_scales);
    ExpectSame(*d_cache.v_scales, cache.v_scales);
  }
}

TEST_P(CudaRopeTest, RopeAndStoreKvEqualsTheReference) {
  for (const DType dtype : kCacheDTypes) ExpectSameRope(dtype);
}

// How a launch may be carried out, with the same bits.
struct Execution {
  bool scratch = true;  // memory for splits that are computed at once
  int num_multiprocessors = 1;
};

// Attention of a case over the keys and values given for each sequence and position. The rest of
// the cache is NaN, so that reading any of it shows.
class World {
 public:
  // k, v  [sequences, max_length, num_kv_heads * head_dim] bfloat16; quantised where dtype says so
  World(const AttentionCase& c, const Tensor& k, const Tensor& v, uint64_t table_seed, DType dtype)
      : case_(c),
        inputs_(MakeAttentionInputs(c, table_seed)),
        cache_(ZeroCache(c, inputs_.num_blocks, dtype)) {
    Fill(k, cache_.k.view, cache_.k_scales.view);
    Fill(v, cache_.v.view, cache_.v_scales.view);
  }

  const AttentionInputs& inputs() const { return inputs_; }
  KvLayer cache() const { return cache_.layer(); }

  // q  [rows, num_heads * head_dim]; returns [rows, num_heads * head_dim] bfloat16, which every
  // family of kernels gives
  OwnedTensor Attend(const Tensor& q, const Execution& execution) const {
    OwnedTensor result = Launch(q, execution, /*wgmma=*/false);
    if (cuda::DeviceHasWgmma()) {
      EXPECT_TRUE(BitwiseEqual(Launch(q, execution, /*wgmma=*/true).view, result.view));
    }
    return result;
  }

 private:
  OwnedTensor Launch(const Tensor& q, const Execution& execution, bool wgmma) const {
    const int64_t cols = q.cols();
    // Both are slices of wider rows.
    const OwnedTensor wide_q = OwnedTensor::Host(DType::kF32, {q.rows(), cols + 8});
    for (int64_t m = 0; m < q.rows(); ++m) {
      std::memcpy(wide_q.view.row<float>(m) + 4, q.row<float>(m), static_cast<size_t>(cols) * 4);
    }
    const OwnedTensor out = OwnedTensor::Host(DType::kBF16, {q.rows(), cols + 8});
    const int64_t floats =
        cuda::PagedAttentionScratch(q.rows(), case_.num_heads(), case_.head_dim,
                                    inputs_.block_tables.view.cols() * case_.block_size);
    const OwnedTensor scratch =
        OwnedTensor::Host(DType::kF32, {execution.scratch ? floats : int64_t{0}});
    const DeviceTensor d_q(wide_q), d_out(out), d_scratch(scratch);
    const DeviceCache d_cache(cache_);
    const DeviceTensor positions(inputs_.positions), slots(inputs_.slots),
        query_starts(inputs_.query_starts), block_tables(inputs_.block_tables);
    cuda::PagedAttention({.q = d_q.view.Cols(4, 4 + cols),
                          .rows = {.positions = positions.view,
                                   .slots = slots.view,
                                   .query_starts = query_starts.view,
                                   .block_tables = block_tables.view},
                          .cache = d_cache.layer(),
                          .kv_head_of = case_.kv_head_of,
                          .scale = 1.0f / std::sqrt(static_cast<float>(case_.head_dim)),
                          .out = d_out.view.Cols(0, cols),
                          .scratch = d_scratch.view,
                          .num_multiprocessors = execution.num_multiprocessors,
                          .wgmma = wgmma},
                         nullptr);
    const OwnedTensor wide_out = d_out.ToHost();
    OwnedTensor result = OwnedTensor::Host(DType::kBF16, {q.rows(), cols});
    for (int64_t m = 0; m < q.rows(); ++m) {
      for (int64_t i = 0; i < 8; ++i) EXPECT_EQ(wide_out.view.row<BFloat16>(m)[cols + i].bits, 0);
      std::memcpy(result.view.row<BFloat16>(m), wide_out.view.row<BFloat16>(m),
                  static_cast<size_t>(cols) * 2);
    }
    return result;
  }

  // One position of one sequence: [num_kv_heads, head_dim] to the cache.
  void Put(const BFloat16* from, int64_t block, int64_t offset, const Tensor& values,
           const Tensor& scales) const {
    for (int64_t h = 0; h < case_.num_kv_heads(); ++h, from += case_.head_dim) {
      const Tensor to = values.At(block).At(h).Rows(offset, offset + 1);
      if (scales.empty()) {
        std::memcpy(to.raw(), from, static_cast<size_t>(to.bytes()));
        continue;
      }
      OwnedTensor row = OwnedTensor::Host(DType::kF32, {1, case_.head_dim});
      for (int64_t d = 0; d < case_.head_dim; ++d) {
        row.view.data<float>()[d] = static_cast<float>(from[d]);
      }
      float amax = 0.0f;
      ReferenceBackend backend;
      backend.RowAbsMax(row.view, Tensor(&amax, DType::kF32, {1}));
      float* scale = scales.At(block).row<float>(h) + offset;
      backend.QuantizeRows(row.view, Tensor(&amax, DType::kF32, {1}),
                           {.values = to, .scales = Tensor(scale, DType::kF32, {1})});
    }
  }

  void Fill(const Tensor& rows, const Tensor& values, const Tensor& scales) const {
    if (scales.empty()) {
      std::fill_n(values.data<BFloat16>(), values.num_elements(), BFloat16(std::nanf("")));
    } else {
      std::fill_n(values.data<int8_t>(), values.num_elements(), int8_t{99});
      std::fill_n(scales.data<float>(), scales.num_elements(), std::nanf(""));
    }
    for (size_t s = 0; s < case_.rows.size(); ++s) {
      const auto sequence = static_cast<int64_t>(s);
      const int32_t* table = inputs_.block_tables.view.row<int32_t>(sequence);
      for (int64_t t = 0; t < case_.past[s] + case_.rows[s]; ++t) {
        Put(rows.At(sequence).row<BFloat16>(t), table[t / case_.block_size], t % case_.block_size,
            values, scales);
      }
    }
  }

  AttentionCase case_;
  AttentionInputs inputs_;
  AttentionCache cache_;
};

// Queries that bfloat16 holds, so that the only rounding is that of the softmax's weights.
OwnedTensor Bf16Queries(int64_t rows, int64_t cols, uint64_t seed, double stddev) {
  OwnedTensor q = RandomTensor(DType::kF32, {rows, cols}, seed, stddev);
  for (int64_t i = 0; i < q.view.num_elements(); ++i) {
    float& x = q.view.data<float>()[i];
    x = static_cast<float>(BFloat16(x));
  }
  return q;
}

class CudaAttentionTest : public CudaOpsTest {
 protected:
  void ExpectNearReference(const AttentionCase& c, double stddev, DType dtype);
  void ExpectUnfiniteStays(int64_t head_dim);
  void ExpectReadsWhatRopeWrote(const AttentionCase& c, DType dtype);
};
INSTANTIATE_TEST_SUITE_P(, CudaAttentionTest, ::testing::ValuesIn(cuda::AllKernelRuns()), RunName);

// One case against the reference, both on the same cache.
void CudaAttentionTest::ExpectNearReference(const AttentionCase& c, double stddev, DType dtype) {
  const int64_t cols = c.num_heads() * c.head_dim;
  const int64_t kv_cols = c.num_kv_heads() * c.head_dim;
  const auto sequences = static_cast<int64_t>(c.rows.size());
  const int64_t max_length = MakeAttentionInputs(c).max_length;
  const OwnedTensor k = RandomTensor(DType::kBF16, {sequences, max_length, kv_cols}, 1);
  const OwnedTensor v = RandomTensor(DType::kBF16, {sequences, max_length, kv_cols}, 2);
  const OwnedTensor q = Bf16Queries(c.num_rows(), cols, 3, stddev);
  const World world(c, k.view, v.view, 1, dtype);
  const OwnedTensor expected = OwnedTensor::Host(DType::kBF16, {c.num_rows(), cols});
  reference().PagedAttention(q.view, world.inputs().rows(), world.cache(), c.kv_head_of,
                             1.0f / std::sqrt(static_cast<float>(c.head_dim)), expected.view);
  const OwnedTensor actual = world.Attend(q.view, {.num_multiprocessors = 4});
  for (int64_t m = 0; m < c.num_rows(); ++m) {
    for (int64_t i = 0; i < cols; ++i) {
      const double e = ElementAt(expected.view, m, i);
      // Weights are rounded by at most 2^-9 of themselves, results by 2^-9, twice.
      ASSERT_NEAR(ElementAt(actual.view, m, i), e, 0.008 + std::abs(e) * 0x1p-7)
          << "row " << m << ", column " << i;
    }
  }
}

TEST_P(CudaAttentionTest, IsWithinRoundingOfTheReference) {
  const std::vector<AttentionCase> cases = {
      {.head_dim = 16, .block_size = 16, .kv_head_of = {0, 1}, .past = {0}, .rows = {0}},
      {.head_dim = 24, .block_size = 8, .kv_head_of = {1, 0, 1}, .past = {3, 0}, .rows = {1, 30}},
      {.head_dim = 16, .block_size = 8, .kv_head_of = {1, 0, 1}, .past = {3, 0}, .rows = {1, 30}},
      {.head_dim = 32,
       .block_size = 16,
       .kv_head_of = {0, 0, 0, 0},
       .past = {0, 30, 255, 256, 511},
       .rows = {17, 3, 1, 1, 4}},
      {.head_dim = 64, .block_size = 16, .kv_head_of = {0, 0}, .past = {300, 0}, .rows = {40, 65}},
      {.head_dim = 80, .block_size = 24, .kv_head_of = {0}, .past = {600}, .rows = {2}},
      {.head_dim = 128, .block_size = 16, .kv_head_of = {0, 0, 0, 0}, .past = {60}, .rows = {17}},
      {.head_dim = 256, .block_size = 16, .kv_head_of = {0}, .past = {260, 0}, .rows = {1, 40}},
      // A decode step of many sequences, one of which has no row.
      {.head_dim = 16,
       .block_size = 8,
       .kv_head_of = {0, 0, 0, 0, 0, 0, 0, 1},
       .past = {5, 0, 64, 255, 256, 17, 9, 8, 31, 7, 100, 2, 3, 1},
       .rows = {1, 1, 1, 1, 1, 1, 0, 1, 1, 2, 1, 1, 1, 1}},
  };
  for (const AttentionCase& c : cases) {
    for (const DType dtype : kCacheDTypes) {
      if (dtype == DType::kI8 && c.head_dim % 16 != 0) continue;
      for (const double stddev : {1.0, 8.0}) {  // flat scores, then nearly one-hot ones
        SCOPED_TRACE(::testing::Message() << c.head_dim << " of " << Name(dtype));
        ExpectNearReference(c, stddev, dtype);
      }
    }
  }
}

// Two sequences, cut into launches in several ways; what each row of them gets.
class Cuts {
 public:
  Cuts(int64_t head_dim, std::vector<int32_t> kv_head_of, std::vector<int32_t> lengths, DType dtype)
      : head_dim_(head_dim),
        kv_head_of_(std::move(kv_head_of)),
        lengths_(std::move(lengths)),
        dtype_(dtype) {
    const AttentionCase c = Case({0, 0}, lengths_);
    const int64_t max_length = std::max(lengths_[0], lengths_[1]);
    const int64_t kv_cols = c.num_kv_heads() * head_dim_;
    k_ = RandomTensor(DType::kBF16, {2, max_length, kv_cols}, 1);
    v_ = RandomTensor(DType::kBF16, {2, max_length, kv_cols}, 2);
    for (size_t s = 0; s < 2; ++s) {
      q_[s] = RandomTensor(DType::kF32, {lengths_[s], c.num_heads() * head_dim_}, 3 + s, 2.0);
    }
  }

  const Tensor& v() const { return v_.view; }
  const Tensor& k() const { return k_.view; }

  // Rows [past[s], past[s] + rows[s]) of both sequences in one launch.
  OwnedTensor Run(const std::vector<int32_t>& past, const std::vector<int32_t>& rows,
                  const Execution& execution, uint64_t table_seed) const {
    const AttentionCase c = Case(past, rows);
    const int64_t cols = c.num_heads() * head_dim_;
    const OwnedTensor q = OwnedTensor::Host(DType::kF32, {c.num_rows(), cols});
    float* to = q.view.data<float>();
    for (size_t s = 0; s < 2; ++s) {
      if (rows[s] == 0) continue;
      std::memcpy(to, q_[s].view.row<float>(past[s]), static_cast<size_t>(rows[s] * cols) * 4);
      to += rows[s] * cols;
    }
    return World(c, k_.view, v_.view, table_seed, dtype_).Attend(q.view, execution);
  }

  // All rows of both sequences in one launch: [lengths[0] + lengths[1], ...].
  OwnedTensor Whole() const { return Run({0, 0}, lengths_, {}, 1); }

  // Expects the rows of a launch to be those of `whole`.
  void ExpectRows(const OwnedTensor& whole, const std::vector<int32_t>& past,
                  const std::vector<int32_t>& rows, const Execution& execution,
                  uint64_t table_seed) const {
    SCOPED_TRACE("rows " + std::to_string(past[0]) + " + " + std::to_string(rows[0]) + " and " +
                 std::to_string(past[1]) + " + " + std::to_string(rows[1]));
    const OwnedTensor part = Run(past, rows, execution, table_seed);
    const int64_t first = lengths_[0] + past[1];
    EXPECT_TRUE(
        BitwiseEqual(part.view.Rows(0, rows[0]), whole.view.Rows(past[0], past[0] + rows[0])));
    EXPECT_TRUE(BitwiseEqual(part.view.Rows(rows[0], rows[0] + rows[1]),
                             whole.view.Rows(first, first + rows[1])));
  }

 private:
  AttentionCase Case(const std::vector<int32_t>& past, const std::vector<int32_t>& rows) const {
    return {.head_dim = head_dim_,
            .block_size = 16,
            .kv_head_of = kv_head_of_,
            .past = past,
            .rows = rows};
  }

  int64_t head_dim_;
  std::vector<int32_t> kv_head_of_;
  std::vector<int32_t> lengths_;
  DType dtype_;
  OwnedTensor k_, v_, q_[2];
};

constexpr Execution kSplitsInTurn = {.scratch = false};
constexpr Execution kSplitsAtOnce = {.scratch = true, .num_multiprocessors = 64};

TEST_P(CudaAttentionTest, ARowIsTheSameInEveryBatchAndChunking) {
  for (const DType dtype : kCacheDTypes) {
    SCOPED_TRACE(Name(dtype));
    const Cuts cuts(32, {0, 0, 1}, {530, 70}, dtype);
    const OwnedTensor whole = cuts.Whole();
    for (const Execution& execution : {kSplitsInTurn, kSplitsAtOnce}) {
      // Decode, at the edges of chunks and splits.
      for (const int32_t position : {0, 15, 63, 64, 255, 256, 511, 512, 529}) {
        cuts.ExpectRows(whole, {position, position % 70}, {1, 1}, execution, 2);
      }
      cuts.ExpectRows(whole, {200, 0}, {330, 0}, execution, 3);  // chunks of a prompt
      cuts.ExpectRows(whole, {250, 10}, {13, 60}, execution, 4);
      cuts.ExpectRows(whole, {500, 69}, {3, 1}, execution, 5);
    }
  }
}

TEST_P(CudaAttentionTest, LargeHeadsAreTheSameInEveryBatchAndChunking) {
  for (const DType dtype : kCacheDTypes) {
    for (const int64_t head_dim : {64, 128, 256}) {
      SCOPED_TRACE(::testing::Message() << head_dim << " of " << Name(dtype));
      const Cuts cuts(head_dim, {0, 0}, {280, 18}, dtype);
      const OwnedTensor whole = cuts.Whole();
      cuts.ExpectRows(whole, {279, 17}, {1, 1}, kSplitsAtOnce, 2);
      cuts.ExpectRows(whole, {260, 2}, {20, 3}, kSplitsInTurn, 3);
      cuts.ExpectRows(whole, {260, 2}, {3, 3}, kSplitsInTurn, 3);
    }
  }
}

// Tiles of a prompt are of many rows and those of a decode of few; a prompt that leaves most of the
// device idle shares its splits between blocks. Here a tile begins and ends inside a token.
TEST_P(CudaAttentionTest, APromptOfManyHeadsIsTheSameInEveryBatchAndChunking) {
  for (const DType dtype : kCacheDTypes) {
    SCOPED_TRACE(Name(dtype));
    const Cuts cuts(64, {0, 0, 0, 1, 0, 0}, {300, 40}, dtype);
    const OwnedTensor whole = cuts.Whole();
    cuts.ExpectRows(whole, {0, 0}, {300, 40}, kSplitsAtOnce, 2);
    cuts.ExpectRows(whole, {250, 39}, {50, 1}, kSplitsAtOnce, 3);
    cuts.ExpectRows(whole, {257, 0}, {5, 0}, kSplitsInTurn, 4);
    cuts.ExpectRows(whole, {299, 39}, {1, 1}, kSplitsAtOnce, 5);
  }
}

// Chunks that all rows of a warpgroup see, that some see, and that none does; tiles whose last
// warpgroup has few rows, or none. Attend compares.
TEST_P(CudaAttentionTest, WgmmaGivesTheBitsOfMmaSync) {
  for (const DType dtype : kCacheDTypes) {
    for (const int64_t head_dim : {48, 64, 80, 128}) {
      SCOPED_TRACE(::testing::Message() << head_dim << " of " << Name(dtype));
      const Cuts cuts(head_dim, {0, 0, 0, 1}, {620, 70}, dtype);
      cuts.Run({580, 0}, {40, 70}, kSplitsInTurn, 2);
      cuts.Run({340, 41}, {50, 20}, kSplitsAtOnce, 3);
      cuts.Run({0, 0}, {130, 22}, kSplitsInTurn, 4);
    }
  }
}

// Attention right behind RopeAndStoreKv, which may still run when it starts, and after a pause.
void CudaAttentionTest::ExpectReadsWhatRopeWrote(const AttentionCase& c, DType dtype) {
  const AttentionInputs in = MakeAttentionInputs(c);
  const int64_t rows = c.num_rows();
  const int64_t q_cols = c.num_heads() * c.head_dim;
  const int64_t kv_cols = c.num_kv_heads() * c.head_dim;
  const AttentionCache cache = RandomCache(c, in.num_blocks, dtype, 5);
  const OwnedTensor qkv = RandomTensor(DType::kF32, {rows, q_cols + 2 * kv_cols}, 1);
  const OwnedTensor rope = RandomTensor(DType::kF32, {in.max_length, c.head_dim}, 4);
  const auto attend = [&](int num_multiprocessors, bool pause) {
    const DeviceCache d_cache(cache);
    const DeviceTensor d_qkv(qkv), d_rope(rope), positions(in.positions), slots(in.slots),
        query_starts(in.query_starts), block_tables(in.block_tables),
        out(OwnedTensor::Host(DType::kBF16, {rows, q_cols})),
        scratch(OwnedTensor::Host(DType::kF32, {cuda::PagedAttentionScratch(
                                                   rows, c.num_heads(), c.head_dim,
                                                   in.block_tables.view.cols() * c.block_size)}));
    const PagedRows paged = {.positions = positions.view,
                             .slots = slots.view,
                             .query_starts = query_starts.view,
                             .block_tables = block_tables.view};
    const Tensor q = d_qkv.view.Cols(0, q_cols);
    cuda::RopeAndStoreKv({.q = q,
                          .k = d_qkv.view.Cols(q_cols, q_cols + kv_cols),
                          .v = d_qkv.view.Cols(q_cols + kv_cols, q_cols + 2 * kv_cols),
                          .rope = d_rope.view,
                          .rows = paged,
                          .cache = d_cache.layer()},
                         nullptr);
    if (pause) d_cache.k.ToHost();
    cuda::PagedAttention({.q = q,
                          .rows = paged,
                          .cache = d_cache.layer(),
                          .kv_head_of = c.kv_head_of,
                          .scale = 0.3f,
                          .out = out.view,
                          .scratch = scratch.view,
                          .num_multiprocessors = num_multiprocessors},
                         nullptr);
    return out.ToHost();
  };
  const OwnedTensor expected = attend(1, true);
  EXPECT_TRUE(BitwiseEqual(attend(1, false).view, expected.view));
  EXPECT_TRUE(BitwiseEqual(attend(64, false).view, expected.view));
}

// Chunks of positions that all are older than the step may be read before RopeAndStoreKv is done,
// and no others: sequences that begin, that end inside a chunk, at its edges, at those of a split.
TEST_P(CudaAttentionTest, WhatTheKernelAheadWritesIsReadAfterIt) {
  for (const DType dtype : kCacheDTypes) {
    for (const int64_t head_dim : {32, 128, 256}) {
      SCOPED_TRACE(::testing::Message() << head_dim << " of " << Name(dtype));
      ExpectReadsWhatRopeWrote({.head_dim = head_dim,
                                .block_size = 16,
                                .kv_head_of = {0, 0, 1},
                                .past = {0, 63, 64, 127, 150, 256, 383, 600},
                                .rows = {1, 1, 1, 2, 5, 1, 1, 3}},
                               dtype);
    }
  }
}

// Of the last columns, which a prompt's tile sums elsewhere, and of the first.
void CudaAttentionTest::ExpectUnfiniteStays(int64_t head_dim) {
  constexpr float kInf = std::numeric_limits<float>::infinity();
  const int64_t d = head_dim;
  SCOPED_TRACE(d);
  const Cuts clean(d, {0, 0, 1}, {90, 9}, DType::kBF16);
  const OwnedTensor expected = clean.Whole();
  const Cuts cuts(d, {0, 0, 1}, {90, 9}, DType::kBF16);
  cuts.v().At(0).row<BFloat16>(40)[3] = BFloat16(std::nanf(""));
  cuts.v().At(0).row<BFloat16>(50)[2 * d - 1] = BFloat16(-kInf);
  cuts.k().At(0).row<BFloat16>(70)[5] = BFloat16(kInf);
  const OwnedTensor whole = cuts.Whole();
  EXPECT_TRUE(BitwiseEqual(whole.view.Rows(0, 40), expected.view.Rows(0, 40)));
  EXPECT_TRUE(BitwiseEqual(whole.view.Rows(90, 99), expected.view.Rows(90, 99)));
  EXPECT_TRUE(std::isnan(ElementAt(whole.view, 40, 3)));
  EXPECT_TRUE(std::isnan(ElementAt(whole.view, 40, d + 3)));
  EXPECT_FALSE(std::isnan(ElementAt(whole.view, 40, 2 * d + 3)));  // the other K/V head
  EXPECT_EQ(ElementAt(whole.view, 50, 3 * d - 1), -kInf);
  EXPECT_TRUE(std::isfinite(ElementAt(whole.view, 49, 3 * d - 1)));
  for (const int32_t position : {39, 40, 41, 50, 69, 70, 89}) {
    cuts.ExpectRows(whole, {position, 3}, {1, 1}, kSplitsInTurn, 2);
  }
  cuts.ExpectRows(whole, {35, 0}, {20, 9}, kSplitsInTurn, 3);
  cuts.ExpectRows(whole, {38, 8}, {5, 1}, kSplitsInTurn, 4);  // a small tile of several tokens
}

// What one position holds reaches the rows from there on, whoever shares their tile, and no other.
TEST_P(CudaAttentionTest, UnfiniteKeysAndValuesStayWithTheRowsThatSeeThem) {
  for (const int64_t head_dim : {32, 64, 128}) ExpectUnfiniteStays(head_dim);
}

// The same with an int8 cache, where the whole head of the position is lost.
TEST_P(CudaAttentionTest, NanScalesStayWithTheRowsThatSeeThem) {
  const Cuts clean(32, {0, 0, 1}, {90, 9}, DType::kI8);
  const OwnedTensor expected = clean.Whole();
  const Cuts cuts(32, {0, 0, 1}, {90, 9}, DType::kI8);
  cuts.v().At(0).row<BFloat16>(40)[3] = BFloat16(std::nanf(""));
  cuts.k().At(0).row<BFloat16>(70)[32 + 5] = BFloat16(HUGE_VALF);
  const OwnedTensor whole = cuts.Whole();
  EXPECT_TRUE(BitwiseEqual(whole.view.Rows(0, 40), expected.view.Rows(0, 40)));
  EXPECT_TRUE(BitwiseEqual(whole.view.Rows(90, 99), expected.view.Rows(90, 99)));
  for (int64_t m = 40; m < 90; ++m) {
    for (int64_t i = 0; i < 96; ++i) {
      EXPECT_EQ(std::isnan(ElementAt(whole.view, m, i)), i < 64 || m >= 70) << m << ", " << i;
    }
  }
  for (const int32_t position : {39, 40, 69, 70}) {
    cuts.ExpectRows(whole, {position, 3}, {1, 1}, kSplitsInTurn, 2);
  }
}

// A NaN or infinity in one row's query stays in that row.
TEST_P(CudaAttentionTest, NanQueriesStayInTheirRows) {
  const AttentionCase c = {
      .head_dim = 32, .block_size = 16, .kv_head_of = {0, 0, 1}, .past = {290}, .rows = {4}};
  const OwnedTensor k = RandomTensor(DType::kBF16, {1, 294, 64}, 1);
  const OwnedTensor v = RandomTensor(DType::kBF16, {1, 294, 64}, 2);
  const OwnedTensor q = RandomTensor(DType::kF32, {4, 96}, 3);
  const World world(c, k.view, v.view, 1, DType::kBF16);
  const OwnedTensor clean = world.Attend(q.view, {});
  q.view.row<float>(1)[5] = std::nanf("");
  q.view.row<float>(2)[70] = HUGE_VALF;
  const OwnedTensor actual = world.Attend(q.view, {});
  for (int64_t i = 0; i < 96; ++i) {
    EXPECT_EQ(std::isnan(ElementAt(actual.view, 1, i)), i < 32);
    EXPECT_EQ(std::isnan(ElementAt(actual.view, 2, i)), i >= 64);
  }
  EXPECT_TRUE(BitwiseEqual(actual.view.Rows(0, 1), clean.view.Rows(0, 1)));
  EXPECT_TRUE(BitwiseEqual(actual.view.Rows(3, 4), clean.view.Rows(3, 4)));
  EXPECT_TRUE(BitwiseEqual(actual.view.Rows(2, 3).Cols(0, 64), clean.view.Rows(2, 3).Cols(0, 64)));
}

}  // namespace
}  // namespace intermix
