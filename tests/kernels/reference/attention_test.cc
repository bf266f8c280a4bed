// ReferenceBackend's attention against a softmax in double, and rotary embedding against complex
// rotation.
#include <algorithm>
#include <cmath>
#include <complex>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/reference/reference_backend.h"
#include "tests/testing/attention_cases.h"
#include "tests/testing/compare.h"
#include "tests/testing/random.h"

namespace intermix {
namespace {

constexpr int64_t kBlockSize = 16;

struct Shape {
  int64_t num_heads;
  int64_t num_kv_heads;
  int64_t head_dim;
};

// A step in which sequence s has `lengths[s]` positions, the last `queries[s]` of them as rows, on
// shuffled blocks of a full cache.
struct Step {
  Shape shape;
  std::vector<int64_t> lengths;
  AttentionCache cache;
  OwnedTensor positions, slots, starts, tables;
  std::vector<int32_t> kv_head_of;

  Step(const Shape& s, const std::vector<int64_t>& lens, const std::vector<int64_t>& queries,
       DType dtype = DType::kBF16)
      : shape(s), lengths(lens) {
    const int64_t max_blocks = 48;
    const int64_t num_blocks = max_blocks * static_cast<int64_t>(lens.size());
    starts = OwnedTensor::Host(DType::kI32, {static_cast<int64_t>(lens.size()) + 1});
    tables = OwnedTensor::Host(DType::kI32, {static_cast<int64_t>(lens.size()), max_blocks});
    int64_t tokens = 0;
    for (const int64_t count : queries) tokens += count;
    positions = OwnedTensor::Host(DType::kI32, {tokens});
    slots = OwnedTensor::Host(DType::kI32, {tokens});
    int32_t row = 0;
    for (size_t i = 0; i < lens.size(); ++i) {
      for (int64_t b = 0; b < max_blocks; ++b) {  // 7 is coprime to the number of blocks
        const int64_t block = (b + static_cast<int64_t>(i) * max_blocks) * 7 % num_blocks;
        tables.view.row<int32_t>(static_cast<int64_t>(i))[b] = static_cast<int32_t>(block);
      }
      for (int64_t t = lens[i] - queries[i]; t < lens[i]; ++t, ++row) {
        positions.view.data<int32_t>()[row] = static_cast<int32_t>(t);
        slots.view.data<int32_t>()[row] = static_cast<int32_t>(Slot(static_cast<int64_t>(i), t));
      }
      starts.view.data<int32_t>()[i + 1] = row;
    }
    for (int64_t h = 0; h < s.num_heads; ++h) {
      kv_head_of.push_back(static_cast<int32_t>(h * s.num_kv_heads / s.num_heads));
    }
    const AttentionCase heads = {.head_dim = s.head_dim,
                                 .block_size = kBlockSize,
                                 .kv_head_of = kv_head_of,
                                 .past = {},
                                 .rows = {}};
    cache = RandomCache(heads, num_blocks, dtype, 1);
  }

  int64_t Slot(int64_t sequence, int64_t t) const {
    return tables.view.row<int32_t>(sequence)[t / kBlockSize] * kBlockSize + t % kBlockSize;
  }
  int64_t tokens() const { return positions.view.rows(); }
  PagedRows rows() const {
    return {.positions = positions.view,
            .slots = slots.view,
            .query_starts = starts.view,
            .block_tables = tables.view};
  }
  // Element d of what the cache holds for one position and head.
  double Key(int64_t slot, int64_t head, int64_t d) const {
    return Value(cache.k.view, cache.k_scales.view, slot, head, d);
  }
  double Value(int64_t slot, int64_t head, int64_t d) const {
    return Value(cache.v.view, cache.v_scales.view, slot, head, d);
  }
  static double ScaleAt(const Tensor& scales, int64_t slot, int64_t head) {
    return scales.At(slot / kBlockSize).At(head).data<float>()[slot % kBlockSize];
  }
  static double Value(const Tensor& values, const Tensor& scales, int64_t slot, int64_t head,
                      int64_t d) {
    const Tensor block = values.At(slot / kBlockSize).At(head);
    if (scales.empty()) return ElementAt(block, slot % kBlockSize, d);
    return block.row<int8_t>(slot % kBlockSize)[d] * ScaleAt(scales, slot, head);
  }
};

// One head's attention in double.
std::vector<double> NaiveAttention(const Step& step, const float* q, int64_t sequence,
                                   int64_t position, int64_t kv_head, double scale) {
  std::vector<double> scores;
  for (int64_t t = 0; t <= position; ++t) {
    double dot = 0.0;
    for (int64_t d = 0; d < step.shape.head_dim; ++d) {
      dot += static_cast<double>(q[d]) * step.Key(step.Slot(sequence, t), kv_head, d);
    }
    scores.push_back(dot * scale);
  }
  const double max = *std::max_element(scores.begin(), scores.end());
  double sum = 0.0;
  for (double& score : scores) sum += score = std::exp(score - max);
  std::vector<double> out(step.shape.head_dim, 0.0);
  for (int64_t t = 0; t <= position; ++t) {
    for (int64_t d = 0; d < step.shape.head_dim; ++d) {
      out[d] += scores[t] / sum * step.Value(step.Slot(sequence, t), kv_head, d);
    }
  }
  return out;
}

OwnedTensor Attend(const Step& step, const Tensor& q, float scale) {
  ReferenceBackend backend;
  OwnedTensor out = OwnedTensor::Host(DType::kBF16, {q.rows(), q.cols()});
  backend.PagedAttention(q, step.rows(), step.cache.layer(), step.kv_head_of, scale, out.view);
  return out;
}

void ExpectSoftmaxInDouble(const Step& step) {
  const Shape& shape = step.shape;
  const OwnedTensor q =
      RandomTensor(DType::kF32, {step.tokens(), shape.num_heads * shape.head_dim}, 3);
  const float scale = 1.0f / std::sqrt(static_cast<float>(shape.head_dim));
  const OwnedTensor out = Attend(step, q.view, scale);
  int64_t sequence = 0;
  for (int64_t m = 0; m < step.tokens(); ++m) {
    while (m >= step.starts.view.data<int32_t>()[sequence + 1]) ++sequence;
    for (int64_t h = 0; h < shape.num_heads; ++h) {
      const std::vector<double> expected =
          NaiveAttention(step, q.view.row<float>(m) + h * shape.head_dim, sequence,
                         step.positions.view.data<int32_t>()[m], step.kv_head_of[h], scale);
      for (int64_t d = 0; d < shape.head_dim; ++d) {
        const double value = ElementAt(out.view, m, h * shape.head_dim + d);
        // bfloat16 keeps 8 bits: half a step is at most 2^-8 of the value.
        ASSERT_NEAR(value, expected[d], std::fabs(expected[d]) * 0x1.01p-8 + 2e-6)
            << m << ", " << h << ", " << d;
      }
    }
  }
}

TEST(ReferenceAttentionTest, FollowsSoftmaxInDouble) {
  for (const DType dtype : kCacheDTypes) {
    for (const Shape& shape : {Shape{4, 2, 32}, Shape{3, 3, 20}, Shape{8, 1, 64}}) {
      SCOPED_TRACE(::testing::Message() << shape.head_dim << " of " << Name(dtype));
      // Lengths at and around the split and the block, and a fresh one-token prompt.
      ExpectSoftmaxInDouble(Step(shape, {1, 17, 256, 257, 600}, {1, 17, 2, 1, 3}, dtype));
    }
  }
}

TEST(ReferenceAttentionTest, ARowDoesNotDependOnItsBatch) {
  const Shape shape{4, 2, 32};
  const Step prefill(shape, {400}, {400});
  const Step decode(shape, {400}, {1});
  const OwnedTensor q = RandomTensor(DType::kF32, {400, 128}, 4);
  const OwnedTensor all = Attend(prefill, q.view, 0.2f);
  const OwnedTensor last = Attend(decode, q.view.Rows(399, 400), 0.2f);
  EXPECT_TRUE(BitwiseEqual(last.view, all.view.Rows(399, 400)));
}

TEST(ReferenceAttentionTest, LargeScoresNeitherOverflowNorVanish) {
  const Shape shape{2, 1, 16};
  const Step step(shape, {300}, {4});
  const OwnedTensor q = RandomTensor(DType::kF32, {4, 32}, 5, 1e4);
  const OwnedTensor out = Attend(step, q.view, 1.0f);
  for (int64_t m = 0; m < 4; ++m) {
    for (int64_t d = 0; d < 32; ++d) EXPECT_TRUE(std::isfinite(ElementAt(out.view, m, d)));
  }
}

TEST(ReferenceAttentionTest, ANanQueryPoisonsItsRowOnly) {
  const Shape shape{2, 1, 16};
  const Step step(shape, {40, 30}, {2, 1});
  OwnedTensor q = RandomTensor(DType::kF32, {3, 32}, 6);
  const OwnedTensor clean = Attend(step, q.view, 0.25f);
  q.view.row<float>(1)[20] = std::nanf("");
  const OwnedTensor out = Attend(step, q.view, 0.25f);
  EXPECT_TRUE(std::isnan(ElementAt(out.view, 1, 20)));
  EXPECT_TRUE(BitwiseEqual(out.view.Rows(0, 1), clean.view.Rows(0, 1)));
  EXPECT_TRUE(BitwiseEqual(out.view.Rows(2, 3), clean.view.Rows(2, 3)));
}

// cos and sin of position * 10000^(-2 i / head_dim).
double Angle(int64_t position, int64_t i, int64_t head_dim) {
  return static_cast<double>(position) *
         std::pow(10000.0, -2.0 * static_cast<double>(i) / static_cast<double>(head_dim));
}

OwnedTensor RopeTable(int64_t positions, int64_t head_dim) {
  OwnedTensor rope = OwnedTensor::Host(DType::kF32, {positions, head_dim});
  for (int64_t p = 0; p < positions; ++p) {
    for (int64_t i = 0; i < head_dim / 2; ++i) {
      rope.view.row<float>(p)[i] = static_cast<float>(std::cos(Angle(p, i, head_dim)));
      rope.view.row<float>(p)[head_dim / 2 + i] =
          static_cast<float>(std::sin(Angle(p, i, head_dim)));
    }
  }
  return rope;
}

// A step of 8 rows through RopeAndStoreKv.
struct StoredStep {
  Step step;
  OwnedTensor qkv;
  Tensor q, k, v;

  explicit StoredStep(const Shape& shape, DType dtype)
      : step(shape, {33, 5}, {3, 5}, dtype),
        qkv(RandomTensor(DType::kF32,
                         {8, (shape.num_heads + 2 * shape.num_kv_heads) * shape.head_dim}, 7)) {
    const int64_t q_width = shape.num_heads * shape.head_dim;
    const int64_t kv_width = shape.num_kv_heads * shape.head_dim;
    q = qkv.view.Cols(0, q_width);
    k = qkv.view.Cols(q_width, q_width + kv_width);
    v = qkv.view.Cols(q_width + kv_width, q_width + 2 * kv_width);
  }
  void Store() {
    const OwnedTensor rope = RopeTable(64, step.shape.head_dim);
    ReferenceBackend().RopeAndStoreKv(q, k, v, rope.view, step.rows(), step.cache.layer());
  }
};

TEST(ReferenceRopeTest, RotatesLikeComplexNumbersAndStoresRoundedRows) {
  const Shape shape{4, 2, 32};
  const int64_t half = shape.head_dim / 2;
  const StoredStep before(shape, DType::kBF16);
  StoredStep after(shape, DType::kBF16);
  after.Store();
  const Step& step = after.step;
  for (int64_t m = 0; m < 8; ++m) {
    const int64_t position = step.positions.view.data<int32_t>()[m];
    for (int64_t h = 0; h < shape.num_heads + shape.num_kv_heads; ++h) {
      for (int64_t i = 0; i < half; ++i) {
        const int64_t low = h * shape.head_dim + i;
        const std::complex<double> x(ElementAt(before.qkv.view, m, low),
                                     ElementAt(before.qkv.view, m, low + half));
        const std::complex<double> turned = x * std::polar(1.0, Angle(position, i, shape.head_dim));
        EXPECT_NEAR(ElementAt(after.qkv.view, m, low), turned.real(), 1e-5);
        EXPECT_NEAR(ElementAt(after.qkv.view, m, low + half), turned.imag(), 1e-5);
      }
    }
    const int64_t slot = step.slots.view.data<int32_t>()[m];
    for (int64_t h = 0; h < shape.num_kv_heads; ++h) {
      for (int64_t d = 0; d < shape.head_dim; ++d) {
        const int64_t column = h * shape.head_dim + d;
        EXPECT_EQ(step.Key(slot, h, d),
                  static_cast<float>(BFloat16(after.k.row<float>(m)[column])));
        EXPECT_EQ(step.Value(slot, h, d),
                  static_cast<float>(BFloat16(after.v.row<float>(m)[column])));
      }
    }
  }
}

TEST(ReferenceRopeTest, QuantisesEachHeadByItself) {
  const Shape shape{4, 2, 32};
  StoredStep stored(shape, DType::kI8);
  // Head 0 of row 1 is huge beside head 1; row 2 has a zero key head; row 3 a value that is NaN.
  for (int64_t d = 0; d < 32; ++d) stored.k.row<float>(1)[d] *= 1000.0f;
  for (int64_t d = 0; d < 32; ++d) stored.k.row<float>(2)[32 + d] = 0.0f;
  stored.v.row<float>(3)[40] = std::nanf("");
  stored.Store();
  const Step& step = stored.step;
  for (int64_t m = 0; m < 8; ++m) {
    const int64_t slot = step.slots.view.data<int32_t>()[m];
    for (int64_t h = 0; h < 2; ++h) {
      const float* key = stored.k.row<float>(m) + h * 32;
      const float* value = stored.v.row<float>(m) + h * 32;
      const float amax = std::fabs(*std::max_element(
          key, key + 32, [](float a, float b) { return std::fabs(a) < std::fabs(b); }));
      EXPECT_EQ(Step::ScaleAt(step.cache.k_scales.view, slot, h), amax / 127.0f);
      const double value_scale = Step::ScaleAt(step.cache.v_scales.view, slot, h);
      EXPECT_EQ(std::isnan(value_scale), m == 3 && h == 1);
      for (int64_t d = 0; d < 32; ++d) {
        EXPECT_NEAR(step.Key(slot, h, d), key[d], 0.5001 * amax / 127.0);
        if (m == 3 && h == 1) continue;
        EXPECT_NEAR(step.Value(slot, h, d), value[d], 0.5001 * value_scale);
      }
    }
  }
}

}  // namespace
}  // namespace intermix
