#include "kernels/cuda/weight_parts.h"

#include <cstring>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/core/buffer.h"
#include "kernels/core/check.h"

namespace intermix::cuda {
namespace {

// The parts' tensors of one kind, stacked in host memory.
template <typename Field>
OwnedTensor Stack(std::span<const QuantizedWeight> parts, const Field& field) {
  int64_t rows = 0;
  for (const QuantizedWeight& part : parts) rows += field(part).rows();
  const Tensor& first = field(parts[0]);
  OwnedTensor all = first.rank() == 1 ? OwnedTensor::Host(first.dtype(), {rows})
                                      : OwnedTensor::Host(first.dtype(), {rows, first.cols()});
  int64_t row = 0;
  for (const QuantizedWeight& part : parts) {
    const Tensor& from = field(part);
    CHECK(from.contiguous());
    std::memcpy(all.view.Rows(row, row + from.rows()).raw(), from.raw(),
                static_cast<size_t>(from.bytes()));
    row += from.rows();
  }
  return all;
}

}  // namespace

QuantizedWeight JoinParts(std::span<const QuantizedWeight> parts) {
  if (parts.size() == 1) return parts[0];
  struct Owned {
    OwnedTensor codes, group_scales, channel_scales;
  };
  auto owned = std::make_shared<Owned>();
  QuantizedWeight joined = {.format = parts[0].format, .k = parts[0].k};
  for (const QuantizedWeight& part : parts) joined.n += part.n;
  owned->codes = Stack(
      parts, [](const QuantizedWeight& w) -> auto& { return w.codes; });
  owned->group_scales = Stack(
      parts, [](const QuantizedWeight& w) -> auto& { return w.group_scales; });
  joined.codes = owned->codes.view;
  joined.group_scales = owned->group_scales.view;
  if (!parts[0].channel_scales.empty()) {
    owned->channel_scales = Stack(
        parts, [](const QuantizedWeight& w) -> auto& { return w.channel_scales; });
    joined.channel_scales = owned->channel_scales.view;
  }
  joined.owner = std::move(owned);
  return joined;
}

std::vector<BFloat16> RoundParts(std::span<const QuantizedWeight> parts) {
  std::vector<BFloat16> rows;
  for (const QuantizedWeight& part : parts) {
    for (int64_t n = 0; n < part.n; ++n) {
      for (int64_t k = 0; k < part.k; ++k) {
        rows.push_back(part.codes.dtype() == DType::kBF16 ? part.codes.row<BFloat16>(n)[k]
                                                          : BFloat16(part.codes.row<float>(n)[k]));
      }
    }
  }
  return rows;
}

absl::Status CheckParts(std::span<const QuantizedWeight> parts) {
  if (parts.empty()) {
    return absl::InvalidArgumentError("no weight parts to pack; give at least one");
  }
  for (const QuantizedWeight& part : parts) {
    if (part.k != parts[0].k) {
      return absl::InvalidArgumentError(absl::StrCat("stacked weights have in-features ",
                                                     parts[0].k, " and ", part.k,
                                                     "; they must be equal"));
    }
    if ((part.format.scheme == Scheme::kNone) != (parts[0].format.scheme == Scheme::kNone)) {
      return absl::InvalidArgumentError(
          absl::StrCat("a weight of format ", parts[0].format.ToString(), " is stacked on one of ",
                       part.format.ToString(), "; quantise all of them or none"));
    }
  }
  return absl::OkStatus();
}

}  // namespace intermix::cuda
