// ReferenceBackend's attention against a softmax in double, and rotary embedding against complex
// rotation.
#include <cmath>
#include <complex>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/reference/reference_backend.h"
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
  OwnedTensor k_cache, v_cache, positions, slots, starts, tables;
  std::vector<int32_t> kv_head_of;

  Step(const Shape& s, const std::vector<int64_t>& lens, const std::vector<int64_t>& queries)
      : shape(s), lengths(lens) {
    const int64_t max_blocks = 48;
    const int64_t num_blocks = max_blocks * static_cast<int64_t>(lens.size());
    k_cache = RandomTensor(DType::kBF16, {num_blocks, s.num_kv_heads, kBlockSize, s.head_dim}, 1);
    v_cache = RandomTensor(DType::kBF16, {num_blocks, s.num_kv_heads, kBlockSize, s.head_dim}, 2);
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
  KvLayer cache() const { return {.k = k_cache.view, .v = v_cache.view}; }
  // Element d of what the cache holds for one position and head.
  double At(const OwnedTensor& cache_tensor, int64_t slot, int64_t head, int64_t d) const {
    const Tensor block = cache_tensor.view.At(slot / kBlockSize).At(head);
    return ElementAt(block, slot % kBlockSize, d);
  }
};

// One head's attention in double.
std::vector<double> NaiveAttention(const Step& step, const float* q, int64_t sequence,
                                   int64_t position, int64_t kv_head, double scale) {
  std::vector<double> scores;
  for (int64_t t = 0; t <= position; ++t) {
    double dot = 0.0;
    for (int64_t d = 0; d < step.shape.head_dim; ++d) {
      dot += static_cast<double>(q[d]) * step.At(step.k_cache, step.Slot(sequence, t), kv_head, d);
    }
    scores.push_back(dot * scale);
  }
  const double max = *std::max_element(scores.begin(), scores.end());
  double sum = 0.0;
  for (double& score : scores) sum += score = std::exp(score - max);
  std::vector<double> out(step.shape.head_dim, 0.0);
  for (int64_t t = 0; t <= position; ++t) {
    for (int64_t d = 0; d < step.shape.head_dim; ++d) {
      out[d] += scores[t] / sum * step.At(step.v_cache, step.Slot(sequence, t), kv_head, d);
    }
  }
  return out;
}

OwnedTensor Attend(const Step& step, const Tensor& q, float scale) {
  ReferenceBackend backend;
  OwnedTensor out = OwnedTensor::Host(DType::kBF16, {q.rows(), q.cols()});
  backend.PagedAttention(q, step.rows(), step.cache(), step.kv_head_of, scale, out.view);
  return out;
}

TEST(ReferenceAttentionTest, FollowsSoftmaxInDouble) {
  for (const Shape& shape : {Shape{4, 2, 32}, Shape{3, 3, 20}, Shape{8, 1, 64}}) {
    // Lengths at and around the split and the block, and a fresh one-token prompt.
    const Step step(shape, {1, 17, 256, 257, 600}, {1, 17, 2, 1, 3});
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

TEST(ReferenceRopeTest, RotatesLikeComplexNumbersAndStoresRoundedRows) {
  const Shape shape{4, 2, 32};
  const int64_t half = shape.head_dim / 2;
  const Step step(shape, {33, 5}, {3, 5});
  OwnedTensor rope = OwnedTensor::Host(DType::kF32, {64, shape.head_dim});
  const auto angle = [&](int64_t position, int64_t i) {
    return static_cast<double>(position) *
           std::pow(10000.0, -2.0 * static_cast<double>(i) / static_cast<double>(shape.head_dim));
  };
  for (int64_t p = 0; p < 64; ++p) {
    for (int64_t i = 0; i < half; ++i) {
      rope.view.row<float>(p)[i] = static_cast<float>(std::cos(angle(p, i)));
      rope.view.row<float>(p)[half + i] = static_cast<float>(std::sin(angle(p, i)));
    }
  }
  const int64_t q_width = shape.num_heads * shape.head_dim;
  const int64_t kv_width = shape.num_kv_heads * shape.head_dim;
  const OwnedTensor before = RandomTensor(DType::kF32, {8, q_width + 2 * kv_width}, 7);
  const OwnedTensor after = RandomTensor(DType::kF32, {8, q_width + 2 * kv_width}, 7);
  const Tensor k = after.view.Cols(q_width, q_width + kv_width);
  const Tensor v = after.view.Cols(q_width + kv_width, q_width + 2 * kv_width);
  ReferenceBackend backend;
  backend.RopeAndStoreKv(after.view.Cols(0, q_width), k, v, rope.view, step.rows(), step.cache());
  for (int64_t m = 0; m < 8; ++m) {
    const int64_t position = step.positions.view.data<int32_t>()[m];
    for (int64_t h = 0; h < shape.num_heads + shape.num_kv_heads; ++h) {
      for (int64_t i = 0; i < half; ++i) {
        const int64_t low = h * shape.head_dim + i;
        const std::complex<double> x(ElementAt(before.view, m, low),
                                     ElementAt(before.view, m, low + half));
        const std::complex<double> turned = x * std::polar(1.0, angle(position, i));
        EXPECT_NEAR(ElementAt(after.view, m, low), turned.real(), 1e-5);
        EXPECT_NEAR(ElementAt(after.view, m, low + half), turned.imag(), 1e-5);
      }
    }
    const int64_t slot = step.slots.view.data<int32_t>()[m];
    for (int64_t h = 0; h < shape.num_kv_heads; ++h) {
      for (int64_t d = 0; d < shape.head_dim; ++d) {
        const int64_t column = h * shape.head_dim + d;
        EXPECT_EQ(step.At(step.k_cache, slot, h, d),
                  static_cast<float>(BFloat16(k.row<float>(m)[column])));
        EXPECT_EQ(step.At(step.v_cache, slot, h, d),
                  static_cast<float>(BFloat16(v.row<float>(m)[column])));
      }
    }
  }
}

}  // namespace
}  // namespace intermix
