// Whole tensors: the options, the refusals and the storage around the row quantiser.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/quant/integer_scale.h"
#include "kernels/quant/row_quantizer.h"
#include "kernels/quant/scale_candidates.h"

namespace intermix {
namespace {

// The memory behind a QuantizedWeight.
struct Storage {
  OwnedTensor codes;
  OwnedTensor group_scales;
  OwnedTensor channel_scales;
};

QuantizedWeight MakeWeight(const WeightFormat& format, int64_t n, int64_t k) {
  const bool integer = format.scheme == Scheme::kInteger;
  auto storage = std::make_shared<Storage>();
  storage->codes = format.bits == 8 ? OwnedTensor::Host(DType::kI8, {n, k})
                                    : OwnedTensor::Host(DType::kU8, {n, k / 2});
  storage->group_scales =
      OwnedTensor::Host(integer ? DType::kI16 : DType::kF32, {n, k / format.group_size});
  if (integer) storage->channel_scales = OwnedTensor::Host(DType::kF32, {n});
  QuantizedWeight weight;
  weight.format = format;
  weight.n = n;
  weight.k = k;
  weight.codes = storage->codes.view;
  weight.group_scales = storage->group_scales.view;
  weight.channel_scales = storage->channel_scales.view;
  weight.owner = std::move(storage);
  return weight;
}

void StoreCodes(const std::vector<int8_t>& codes, int64_t n, const QuantizedWeight& weight) {
  if (weight.format.bits == 8) {
    std::memcpy(weight.codes.row<int8_t>(n), codes.data(), weight.k);
    return;
  }
  uint8_t* out = weight.codes.row<uint8_t>(n);
  const int8_t* from = codes.data();
  const int64_t num_pairs = weight.k / 2;
  for (int64_t i = 0; i < num_pairs; ++i) {
    uint16_t pair;  // the even code in the low byte; a form that compilers vectorise
    std::memcpy(&pair, from + 2 * i, sizeof pair);
    out[i] = static_cast<uint8_t>((pair & 0xF) | ((pair >> 4) & 0xF0));
  }
}

// An integer weight under construction, and how far it is from the float one.
struct IntegerWeight {
  QuantizedWeight weight;
  double squared_error = 0.0;

  void StoreRow(const NormalizedRow& row, const RowScales& scales, int64_t n,
                std::vector<int8_t>& codes) {
    RoundRow(row, scales, codes);
    StoreCodes(codes, n, weight);
    std::copy(scales.integer.begin(), scales.integer.end(), weight.group_scales.row<int16_t>(n));
    weight.channel_scales.data<float>()[n] = std::ldexp(scales.unit, row.exponent);
    squared_error += std::ldexp(scales.squared_error, 2 * row.exponent);
  }
};

absl::Status CheckShape(const Tensor& weight, const QuantSpec& spec, const std::string& name) {
  CHECK_EQ(weight.rank(), 2);
  const int64_t k = weight.cols();
  if (spec.group_size != 0 && k % spec.group_size != 0) {
    const char* use = k % 64 == 0 ? "64" : k % 32 == 0 ? "32" : "0 (one group over the whole row)";
    return absl::InvalidArgumentError(absl::StrCat(name, ": in-features ", k,
                                                   " is not a multiple of group size ",
                                                   spec.group_size, "; use ", use));
  }
  if (spec.bits == 4 && k % 2 != 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        name, ": in-features ", k, " is odd, but 4-bit codes are packed in pairs; use 8 bits"));
  }
  return absl::OkStatus();
}

// One row of the tensor, ready for its scales to be made integers.
absl::Status ReadRow(const Tensor& weight, int64_t n, int64_t group_size, const QuantSpec& spec,
                     const std::string& name, NormalizedRow& row) {
  if (!NormalizeRow(weight, n, group_size, spec.bits, row)) {
    return absl::InvalidArgumentError(absl::StrCat(
        name, ": row ", n, " holds a NaN or infinity; repair the checkpoint before quantising"));
  }
  if (spec.clip_search) SearchClip(row);
  return absl::OkStatus();
}

// The paper's heuristic over the whole tensor: the smallest n >= 0 with min(s) * 2^n >= 1.
absl::StatusOr<int> HeuristicLog2(const Tensor& weight, int64_t group_size, const QuantSpec& spec,
                                  const std::string& name) {
  double smallest = 1.0;
  NormalizedRow row;
  for (int64_t n = 0; n < weight.rows(); ++n) {
    if (absl::Status s = ReadRow(weight, n, group_size, spec, name, row); !s.ok()) return s;
    for (const float scale : row.scales) {
      if (scale > 0.0f) {
        smallest = std::min(smallest, std::ldexp(static_cast<double>(scale), row.exponent));
      }
    }
  }
  return -std::ilogb(smallest);
}

absl::StatusOr<RowScales> CheckedFixedScales(const NormalizedRow& row, int log2_amplifier,
                                             int64_t n, const std::string& name) {
  double largest = 0.0;
  RowScales scales = FixedScales(row, log2_amplifier, largest);
  const std::string what =
      absl::StrCat(name, ": amplifier 2^", log2_amplifier, " makes row ", n, "'s ");
  if (largest > std::numeric_limits<int16_t>::max()) {
    return absl::InvalidArgumentError(absl::StrCat(what, "largest integer scale ", largest,
                                                   ", beyond 32767; use amplifier channel"));
  }
  if (!scales.certified()) {
    return absl::InvalidArgumentError(
        absl::StrCat(what, "worst accumulator ", 127 * scales.product_sum,
                     ", beyond 2147483647, so it could overflow; use amplifier channel"));
  }
  return scales;
}

absl::StatusOr<RowScales> CheckedWideScales(const NormalizedRow& row, int64_t n,
                                            const std::string& name) {
  RowScales scales = WideScales(row);
  if (!scales.certified()) {
    return absl::InvalidArgumentError(absl::StrCat(name, ": row ", n, " with in-features ", row.k,
                                                   " could overflow an int32 accumulator under "
                                                   "any scale; use fewer bits"));
  }
  return scales;
}

// The forms that `spec` leaves to choose from.
struct Candidates {
  std::optional<IntegerWeight> folded;
  std::optional<IntegerWeight> wide;
  bool folded_certified = true;
};

// Folded where asked for, or where it is allowed and about as good as wide.
absl::StatusOr<QuantizedWeight> Choose(Candidates all, const std::string& name) {
  if (!all.folded) return std::move(all.wide->weight);
  if (!all.wide && !all.folded_certified) {
    return absl::InvalidArgumentError(absl::StrCat(name, ": in-features ", all.folded->weight.k,
                                                   " could overflow an int32 accumulator under "
                                                   "folded scales; use wide scales"));
  }
  const bool good = !all.wide || (all.folded_certified &&
                                  TakesFolded(all.folded->squared_error, all.wide->squared_error));
  return std::move(good ? all.folded->weight : all.wide->weight);
}

absl::StatusOr<Candidates> MakeCandidates(const Tensor& weight, const QuantSpec& spec,
                                          int64_t group_size, const std::string& name) {
  const bool own_amplifier = spec.amplifier.kind == Amplifier::Kind::kChannel;
  int log2_amplifier = 0;
  if (spec.amplifier.kind == Amplifier::Kind::kFixed) {
    log2_amplifier = std::countr_zero(static_cast<uint64_t>(spec.amplifier.value));
  } else if (spec.amplifier.kind == Amplifier::Kind::kHeuristic) {
    absl::StatusOr<int> heuristic = HeuristicLog2(weight, group_size, spec, name);
    if (!heuristic.ok()) return heuristic.status();
    log2_amplifier = *heuristic;
  }
  WeightFormat format{.bits = spec.bits, .group_size = group_size};
  Candidates all;
  if (spec.bits == 4 && own_amplifier && spec.scales != ScaleChoice::kWide) {
    format.scale_width = ScaleWidth::kFolded;
    all.folded.emplace(IntegerWeight{.weight = MakeWeight(format, weight.rows(), weight.cols())});
  }
  if (spec.scales != ScaleChoice::kFolded) {
    format.scale_width = ScaleWidth::kWide;
    all.wide.emplace(IntegerWeight{.weight = MakeWeight(format, weight.rows(), weight.cols())});
  }
  NormalizedRow row;
  std::vector<int8_t> codes;
  for (int64_t n = 0; n < weight.rows(); ++n) {
    if (absl::Status s = ReadRow(weight, n, group_size, spec, name, row); !s.ok()) return s;
    if (all.folded) {
      const RowScales scales = FoldedScales(row);
      all.folded_certified = all.folded_certified && scales.certified();
      all.folded->StoreRow(row, scales, n, codes);
    }
    if (all.wide) {
      const absl::StatusOr<RowScales> scales =
          own_amplifier ? CheckedWideScales(row, n, name)
                        : CheckedFixedScales(row, log2_amplifier, n, name);
      if (!scales.ok()) return scales.status();
      all.wide->StoreRow(row, *scales, n, codes);
    }
  }
  return all;
}

absl::StatusOr<QuantizedWeight> QuantizeInteger(const Tensor& weight, const QuantSpec& spec,
                                                int64_t group_size, const std::string& name) {
  absl::StatusOr<Candidates> all = MakeCandidates(weight, spec, group_size, name);
  if (!all.ok()) return all.status();
  return Choose(*std::move(all), name);
}

absl::StatusOr<QuantizedWeight> QuantizeFloat(const Tensor& weight, const QuantSpec& spec,
                                              int64_t group_size, const std::string& name) {
  const WeightFormat format{.scheme = Scheme::kFloat,
                            .scale_width = ScaleWidth::kWide,
                            .bits = spec.bits,
                            .group_size = group_size};
  QuantizedWeight result = MakeWeight(format, weight.rows(), weight.cols());
  NormalizedRow row;
  std::vector<int8_t> codes;
  for (int64_t n = 0; n < weight.rows(); ++n) {
    if (absl::Status s = ReadRow(weight, n, group_size, spec, name, row); !s.ok()) return s;
    float* scales = result.group_scales.row<float>(n);
    for (int64_t j = 0; j < row.num_groups(); ++j) {
      scales[j] = std::ldexp(row.scales[j], row.exponent);
      if (row.scales[j] == 0.0f) row.scales[j] = 1.0f;  // any divisor rounds zeros to zeros
    }
    codes.resize(row.values.size());
    RoundGroups(row.groups(), row.scales.data(), codes.data());
    StoreCodes(codes, n, result);
  }
  return result;
}

// Scheme::kNone: a copy, so that the result owns its memory; float16 is widened.
QuantizedWeight Keep(const Tensor& weight) {
  const DType dtype = weight.dtype() == DType::kBF16 ? DType::kBF16 : DType::kF32;
  auto values =
      std::make_shared<OwnedTensor>(OwnedTensor::Host(dtype, {weight.rows(), weight.cols()}));
  for (int64_t n = 0; n < weight.rows(); ++n) {
    if (dtype == DType::kF32) {
      WidenRow(weight, n, values->view.row<float>(n));
    } else {
      std::copy_n(weight.row<BFloat16>(n), weight.cols(), values->view.row<BFloat16>(n));
    }
  }
  QuantizedWeight result;
  result.format = {.scheme = Scheme::kNone};
  result.n = weight.rows();
  result.k = weight.cols();
  result.codes = values->view;
  result.owner = std::move(values);
  return result;
}

}  // namespace

absl::StatusOr<QuantizedWeight> Quantize(const Tensor& weight, const QuantSpec& spec,
                                         const std::string& name) {
  if (absl::Status s = spec.Validate(); !s.ok()) return s;
  if (spec.scheme == Scheme::kNone) return Keep(weight);
  if (absl::Status s = CheckShape(weight, spec, name); !s.ok()) return s;
  const int64_t group_size = spec.group_size == 0 ? weight.cols() : spec.group_size;
  return spec.scheme == Scheme::kFloat ? QuantizeFloat(weight, spec, group_size, name)
                                       : QuantizeInteger(weight, spec, group_size, name);
}

bool TakesFolded(double folded_error, double wide_error) {
  return folded_error <= kFoldedTolerance * wide_error;
}

absl::StatusOr<ScaleCandidates> QuantizeBothScales(const Tensor& weight, const QuantSpec& spec,
                                                   const std::string& name) {
  if (absl::Status s = spec.Validate(); !s.ok()) return s;
  if (absl::Status s = CheckShape(weight, spec, name); !s.ok()) return s;
  const int64_t group_size = spec.group_size == 0 ? weight.cols() : spec.group_size;
  absl::StatusOr<Candidates> all = MakeCandidates(weight, spec, group_size, name);
  if (!all.ok()) return all.status();
  CHECK(all->folded && all->wide) << name << ": the options leave nothing to choose";
  return ScaleCandidates{.folded = std::move(all->folded->weight),
                         .wide = std::move(all->wide->weight),
                         .folded_error = all->folded->squared_error,
                         .wide_error = all->wide->squared_error,
                         .folded_certified = all->folded_certified};
}

}  // namespace intermix
