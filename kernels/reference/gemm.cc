// Linear layers: one output at a time, straight from the canonical weight.
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/core/lane_math.h"
#include "kernels/reference/reference_backend.h"

namespace intermix {
namespace {

// The parts as they came; each keeps its own format.
class ReferenceWeight final : public PackedWeight {
 public:
  ReferenceWeight(std::vector<QuantizedWeight> parts, int64_t n, int64_t k, bool quantized)
      : PackedWeight(n, k, quantized), parts_(std::move(parts)) {}

  const std::vector<QuantizedWeight>& parts() const { return parts_; }
  int64_t bytes() const override {
    int64_t total = 0;
    for (const QuantizedWeight& part : parts_) total += part.bytes();
    return total;
  }

 private:
  std::vector<QuantizedWeight> parts_;
};

void Store(float value, Tensor y, int64_t m, int64_t n) {
  if (y.dtype() == DType::kBF16) {
    y.row<BFloat16>(m)[n] = BFloat16(value);
  } else {
    y.row<float>(m)[n] = value;
  }
}

int64_t GroupDot(const int8_t* x, const int8_t* q, int64_t count) {
  int64_t sum = 0;
  for (int64_t k = 0; k < count; ++k) sum += int32_t{x[k]} * int32_t{q[k]};
  return sum;
}

int32_t Accumulate(const int8_t* x, const int8_t* q, const int16_t* scales, int64_t num_groups,
                   int64_t group_size) {
  int64_t acc = 0;
  for (int64_t j = 0; j < num_groups; ++j) {
    acc += scales[j] * GroupDot(x + j * group_size, q + j * group_size, group_size);
  }
  CHECK(acc >= std::numeric_limits<int32_t>::min() && acc <= std::numeric_limits<int32_t>::max())
      << "an accumulator overflows: " << acc << "; the weight breaks the overflow certificate";
  return static_cast<int32_t>(acc);
}

// Column n of y, for an integer scheme.  x [tokens, K] int8, y [tokens, part's N]
void IntegerColumn(const Activations& x, const QuantizedWeight& w, const int8_t* q, int64_t n,
                   Tensor y) {
  const int16_t* scales = w.group_scales.row<int16_t>(n);
  const float channel_scale = w.channel_scales.data<float>()[n];
  for (int64_t m = 0; m < x.tokens(); ++m) {
    const int32_t acc =
        Accumulate(x.values.row<int8_t>(m), q, scales, w.num_groups(), w.format.group_size);
    if (y.dtype() == DType::kI32) {
      y.row<int32_t>(m)[n] = acc;
    } else {
      Store((static_cast<float>(acc) * channel_scale) * x.scales.data<float>()[m], y, m, n);
    }
  }
}

void FloatColumn(const Activations& x, const QuantizedWeight& w, const int8_t* q, int64_t n,
                 Tensor y) {
  const float* scales = w.group_scales.row<float>(n);
  const int64_t g = w.format.group_size;
  for (int64_t m = 0; m < x.tokens(); ++m) {
    float sum = 0.0f;
    for (int64_t j = 0; j < w.num_groups(); ++j) {
      const int64_t acc = GroupDot(x.values.row<int8_t>(m) + j * g, q + j * g, g);
      sum = std::fma(static_cast<float>(acc), scales[j], sum);
    }
    Store(sum * x.scales.data<float>()[m], y, m, n);
  }
}

void UnquantizedColumn(const Activations& x, const QuantizedWeight& w, int64_t n, Tensor y) {
  for (int64_t m = 0; m < x.tokens(); ++m) {
    const float* row = x.values.row<float>(m);
    Store(w.codes.dtype() == DType::kBF16 ? LaneDot(row, w.codes.row<BFloat16>(n), w.k)
                                          : LaneDot(row, w.codes.row<float>(n), w.k),
          y, m, n);
  }
}

void PartGemm(const Activations& x, const QuantizedWeight& w, Tensor y) {
  CHECK(y.dtype() != DType::kI32 || w.format.scheme == Scheme::kInteger)
      << "only an integer scheme has int32 accumulators, this weight is " << w.format.ToString();
  std::vector<int8_t> codes(w.k);
  for (int64_t n = 0; n < w.n; ++n) {
    if (w.format.scheme == Scheme::kNone) {
      UnquantizedColumn(x, w, n, y);
      continue;
    }
    UnpackCodes(w, n, codes.data());
    if (w.format.scheme == Scheme::kInteger) {
      IntegerColumn(x, w, codes.data(), n, y);
    } else {
      FloatColumn(x, w, codes.data(), n, y);
    }
  }
}

}  // namespace

absl::StatusOr<std::unique_ptr<PackedWeight>> ReferenceBackend::Prepack(
    std::span<const QuantizedWeight> parts) {
  if (parts.empty())
    return absl::InvalidArgumentError("no weight parts to pack; give at least one");
  const int64_t k = parts[0].k;
  const bool quantized = parts[0].format.scheme != Scheme::kNone;
  int64_t n = 0;
  for (const QuantizedWeight& part : parts) {
    if (part.k != k) {
      return absl::InvalidArgumentError(absl::StrCat("stacked weights have in-features ", k,
                                                     " and ", part.k, "; they must be equal"));
    }
    if ((part.format.scheme != Scheme::kNone) != quantized) {
      return absl::InvalidArgumentError(
          absl::StrCat("a weight of format ", parts[0].format.ToString(), " is stacked on one of ",
                       part.format.ToString(), "; quantise all of them or none"));
    }
    n += part.n;
  }
  return std::make_unique<ReferenceWeight>(std::vector<QuantizedWeight>(parts.begin(), parts.end()),
                                           n, k, quantized);
}

void ReferenceBackend::Gemm(const Activations& x, const PackedWeight& w, Tensor y) {
  CHECK_EQ(x.values.cols(), w.k());
  CHECK_EQ(y.cols(), w.n());
  CHECK_EQ(y.rows(), x.tokens());
  CHECK_EQ(x.quantized(), w.quantized());
  int64_t begin = 0;
  for (const QuantizedWeight& part : static_cast<const ReferenceWeight&>(w).parts()) {
    PartGemm(x, part, y.Cols(begin, begin + part.n));
    begin += part.n;
  }
}

void ReferenceBackend::GroupedGemm(const Activations& x,
                                   std::span<const PackedWeight* const> weights,
                                   const Tensor& row_offsets, Tensor y) {
  CHECK_EQ(row_offsets.rows(), static_cast<int64_t>(weights.size()) + 1);
  const int32_t* offsets = row_offsets.data<int32_t>();
  CHECK_EQ(offsets[0], 0);
  for (size_t e = 0; e < weights.size(); ++e) {
    const int32_t begin = offsets[e];
    const int32_t end = offsets[e + 1];
    if (begin == end) continue;
    Gemm(x.Rows(begin, end), *weights[e], y.Rows(begin, end));
  }
}

absl::StatusOr<std::unique_ptr<PackedWeight>> ReferenceBackend::PrepackGated(
    const QuantizedWeight& gate, const QuantizedWeight& up) {
  CHECK_EQ(gate.n, up.n);
  return Prepack(std::vector<QuantizedWeight>{gate, up});
}

void ReferenceBackend::GatedGemm(const Activations& x, std::span<const PackedWeight* const> weights,
                                 const Tensor& row_offsets, Tensor hidden) {
  const int64_t features = hidden.cols();
  OwnedTensor gate_up = OwnedTensor::Host(DType::kF32, {x.tokens(), 2 * features});
  if (row_offsets.empty()) {
    CHECK_EQ(weights.size(), 1u);
    Gemm(x, *weights[0], gate_up.view);
  } else {
    GroupedGemm(x, weights, row_offsets, gate_up.view);
  }
  for (int64_t m = 0; m < x.tokens(); ++m) {
    const float* gate = gate_up.view.row<float>(m);
    const float* up = gate + features;
    BFloat16* out = hidden.row<BFloat16>(m);
    for (int64_t i = 0; i < features; ++i) out[i] = BFloat16(LaneSilu(gate[i]) * up[i]);
  }
}

std::unique_ptr<Backend> MakeReferenceBackend() { return std::make_unique<ReferenceBackend>(); }

}  // namespace intermix
