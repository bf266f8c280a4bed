// GatedGemm, on every instruction set and number of threads, equals ReferenceBackend bit for bit:
// formats that share scratch memory and others, few rows and many, experts with none.
#include <algorithm>
#include <cmath>
#include <limits>

#include "tests/parity/parity_test_base.h"
#include "tests/testing/gemm_cases.h"

namespace intermix {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

class GatedGemmParityTest : public ParityTest {
 protected:
  static std::unique_ptr<PackedWeight> PackGated(Backend& backend, const QuantizedWeight& gate,
                                                 const QuantizedWeight& up) {
    absl::StatusOr<std::unique_ptr<PackedWeight>> packed = backend.PrepackGated(gate, up);
    EXPECT_TRUE(packed.ok()) << packed.status();
    return packed.ok() ? *std::move(packed) : nullptr;
  }

  void ExpectSameGated(const QuantizedWeight& gate, const QuantizedWeight& up,
                       const Activations& x) {
    ExpectSame(DType::kBF16, {x.tokens(), gate.n + 5}, [&](Backend& backend, const Tensor& y) {
      const std::unique_ptr<PackedWeight> packed = PackGated(backend, gate, up);
      const PackedWeight* const weight = packed.get();
      backend.GatedGemm(x, {&weight, 1}, Tensor(), y.Cols(3, 3 + gate.n));
    });
  }
};

// Tiles that stream weights, panels of one chunk of rows, and of several.
TEST_P(GatedGemmParityTest, EveryFormatAndNumberOfRows) {
  const WeightFormat wide{.scale_width = ScaleWidth::kWide, .bits = 4, .group_size = 64};
  const WeightFormat folded{.scale_width = ScaleWidth::kFolded, .bits = 4, .group_size = 64};
  const WeightFormat other_groups{.scale_width = ScaleWidth::kWide, .bits = 8, .group_size = 32};
  const WeightFormat floating{.scheme = Scheme::kFloat, .bits = 4, .group_size = 64};
  const WeightFormat none{.scheme = Scheme::kNone};
  for (const auto& [gate, up] : {std::pair{folded, folded},
                                 {folded, wide},
                                 {wide, other_groups},
                                 {floating, floating},
                                 {none, none}}) {
    for (const int64_t n : {5, 70, 200}) {
      for (const int64_t tokens : {0, 1, 13, 26, 300}) {
        if (n == 200 && tokens == 300 && gate.scheme == Scheme::kNone) continue;
        SCOPED_TRACE(gate.ToString() + ", " + up.ToString() + ", " + std::to_string(n) + ", " +
                     std::to_string(tokens) + " rows");
        const OwnedActivations x = RandomActivations(gate.scheme, tokens, 192, 2);
        ExpectSameGated(RandomWeight(gate, n, 192, 3), RandomWeight(up, n, 192, 4), x.view());
        if (HasFailure()) return;
      }
    }
  }
}

TEST_P(GatedGemmParityTest, ExtremeCodesScalesAndNanRows) {
  for (const ScaleWidth width : {ScaleWidth::kFolded, ScaleWidth::kWide}) {
    const WeightFormat format{.scale_width = width, .bits = 4, .group_size = 64};
    const OwnedActivations x = RandomActivations(Scheme::kInteger, 30, 192, 4, Content::kExtreme);
    ExpectSameGated(RandomWeight(format, 40, 192, 3, Content::kExtreme),
                    RandomWeight(format, 40, 192, 5, Content::kExtreme), x.view());
  }
}

// The exponential over its whole range, its cut-offs and their neighbours: rows of one number.
TEST_P(GatedGemmParityTest, ExponentialInSilu) {
  std::vector<float> values = {0.0f, kInf, -kInf, std::nanf(""), 1e30f, -1e30f};
  for (const float edge : {87.3f, 88.7f, -87.3f, -88.7f}) {
    values.push_back(edge);
    values.push_back(std::nextafter(edge, kInf));
    values.push_back(std::nextafter(edge, -kInf));
  }
  for (float x = -90.0f; x < 90.0f; x += 0.0173f) values.push_back(x);
  const auto count = static_cast<int64_t>(values.size());
  const OwnedTensor up = OwnedTensor::Host(DType::kF32, {count, 1});
  for (int64_t i = 0; i < count; ++i) {
    // An `up` that stretches the low bits of silu over bfloat16's few.
    PutValue(up.view, i, 0, 1.0f + static_cast<float>(i % 97) * 0x1p-9f);
  }
  const auto weight = [&](float* rows) {
    return QuantizedWeight{.format = {.scheme = Scheme::kNone},
                           .n = count,
                           .k = 1,
                           .codes = Tensor(rows, DType::kF32, {count, 1})};
  };
  const OwnedActivations x{.values = OwnedTensor::Host(DType::kF32, {1, 1}), .scales = {}};
  x.values.view.data<float>()[0] = 1.0f;
  ExpectSameGated(weight(values.data()), weight(up.view.data<float>()), x.view());
}

TEST_P(GatedGemmParityTest, ExpertsWithNoRowsAndOfDifferentFormats) {
  for (const bool mixed : {false, true}) {
    for (const std::vector<int32_t>& offsets : ExpertRowOffsets()) {
      const OwnedActivations x = RandomActivations(Scheme::kInteger, offsets.back(), 96, 7);
      const OwnedTensor row_offsets =
          OwnedTensor::Host(DType::kI32, {static_cast<int64_t>(offsets.size())});
      std::copy(offsets.begin(), offsets.end(), row_offsets.view.data<int32_t>());
      ExpectSame(DType::kBF16, {offsets.back(), 40}, [&](Backend& backend, const Tensor& y) {
        std::vector<std::unique_ptr<PackedWeight>> owned;
        std::vector<const PackedWeight*> experts;
        for (uint64_t e = 0; e + 1 < offsets.size(); ++e) {
          WeightFormat format{.scale_width = ScaleWidth::kFolded, .bits = 4, .group_size = 32};
          if (mixed && e % 2 == 1) format.group_size = 96;
          owned.push_back(PackGated(backend, RandomWeight(format, 40, 96, 100 + e),
                                    RandomWeight(format, 40, 96, 200 + e)));
          experts.push_back(owned.back().get());
        }
        backend.GatedGemm(x.view(), experts, row_offsets.view, y);
      });
    }
  }
}

INSTANTIATE_TEST_SUITE_P(, GatedGemmParityTest, AllIsas(), IsaName);

}  // namespace
}  // namespace intermix
