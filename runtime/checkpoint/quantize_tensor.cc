#include "runtime/checkpoint/quantize_tensor.h"

#include <algorithm>
#include <atomic>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/quant/scale_candidates.h"
#include "runtime/checkpoint/row_chunks.h"
#include "runtime/checkpoint/weight_rows.h"

namespace intermix {
namespace {

// Quantises under a spec whose choices are made per row, chunk by chunk.
absl::StatusOr<QuantizedWeight> QuantizeChunks(const Tensor& weight, const QuantSpec& spec,
                                               const std::string& name) {
  const int64_t rows_per_chunk = RowsPerChunk(weight.cols());
  const int64_t num_chunks = (weight.rows() + rows_per_chunk - 1) / rows_per_chunk;
  std::vector<absl::StatusOr<QuantizedWeight>> results(static_cast<size_t>(num_chunks));
  ForEachChunk(weight.rows(), rows_per_chunk, [&](int64_t chunk, Slice rows) {
    results[chunk] = Quantize(weight.Rows(rows.begin, rows.end), spec, name);
  });
  std::vector<QuantizedWeight> parts;
  for (absl::StatusOr<QuantizedWeight>& result : results) {
    if (!result.ok()) return Quantize(weight, spec, name);  // refuses naming the tensor's own row
    parts.push_back(*std::move(result));
  }
  return parts.size() == 1 ? std::move(parts[0]) : StackRows(parts, weight.rows());
}

// Both forms chunk by chunk, in one pass; then one choice for the whole tensor.
absl::StatusOr<QuantizedWeight> QuantizeAndChoose(const Tensor& weight, const QuantSpec& spec,
                                                  const std::string& name) {
  const int64_t rows_per_chunk = RowsPerChunk(weight.cols());
  const int64_t num_chunks = (weight.rows() + rows_per_chunk - 1) / rows_per_chunk;
  std::vector<absl::StatusOr<ScaleCandidates>> results(static_cast<size_t>(num_chunks));
  ForEachChunk(weight.rows(), rows_per_chunk, [&](int64_t chunk, Slice rows) {
    results[chunk] = QuantizeBothScales(weight.Rows(rows.begin, rows.end), spec, name);
  });
  bool certified = true;
  double folded_error = 0.0;
  double wide_error = 0.0;
  for (const absl::StatusOr<ScaleCandidates>& result : results) {
    if (!result.ok()) return Quantize(weight, spec, name);  // refuses naming the tensor's own row
    certified = certified && result->folded_certified;
    folded_error += result->folded_error;
    wide_error += result->wide_error;
  }
  const bool take_folded = certified && TakesFolded(folded_error, wide_error);
  std::vector<QuantizedWeight> parts;
  for (absl::StatusOr<ScaleCandidates>& result : results) {
    parts.push_back(std::move(take_folded ? result->folded : result->wide));
  }
  return parts.size() == 1 ? std::move(parts[0]) : StackRows(parts, weight.rows());
}

bool ChoosesScales(const QuantSpec& spec) {
  return spec.scheme == Scheme::kInteger && spec.bits == 4 && spec.scales == ScaleChoice::kAuto &&
         spec.amplifier.kind == Amplifier::Kind::kChannel;
}

bool HasOneAmplifier(const QuantSpec& spec) {
  return spec.scheme == Scheme::kInteger && spec.amplifier.kind == Amplifier::Kind::kHeuristic;
}

// Weights that stay as they are stay where they are: the result is a view of the mapped file.
absl::StatusOr<QuantizedWeight> QuantizeMapped(const TensorRows& source, const QuantSpec& spec,
                                               const std::string& name) {
  if (spec.scheme != Scheme::kNone || source.view.dtype() == DType::kF16) {
    return QuantizeTensor(source.view, spec, name);
  }
  const int64_t k = source.view.cols();
  return QuantizedWeight{.format = {.scheme = Scheme::kNone},
                         .n = source.view.rows(),
                         .k = k,
                         .codes = source.view,
                         .owner = source.owner};
}

}  // namespace

absl::StatusOr<QuantizedWeight> QuantizeTensor(const Tensor& weight, const QuantSpec& spec,
                                               const std::string& name) {
  if (weight.rows() == 0 || HasOneAmplifier(spec)) return Quantize(weight, spec, name);
  return ChoosesScales(spec) ? QuantizeAndChoose(weight, spec, name)
                             : QuantizeChunks(weight, spec, name);
}

absl::StatusOr<QuantizedWeight> QuantizeRows(const TensorFiles& files,
                                             const QuantizeRequest& request,
                                             const QuantSpec& spec) {
  const auto [tensor, n, k, rows] = request;
  if (rows.begin < 0 || rows.begin > rows.end) {
    return absl::InvalidArgumentError(
        absl::StrCat("tensor ", tensor, " has no rows ", rows.begin, "..", rows.end));
  }
  // Where no row of the slice is real (padding alone), one is quantised for its format.
  const Slice real = {.begin = std::min(rows.begin, n), .end = std::min(rows.end, n)};
  Slice read = {.begin = std::min(real.begin, n - 1), .end = std::max(real.end, int64_t{1})};
  if (ChoosesScales(spec) || HasOneAmplifier(spec)) read = {.begin = 0, .end = n};
  absl::StatusOr<TensorRows> source =
      files.Rows(tensor, {n, k}, read, {DType::kBF16, DType::kF32, DType::kF16});
  if (!source.ok()) return source.status();
  absl::StatusOr<QuantizedWeight> quantized = QuantizeMapped(*source, spec, tensor);
  if (!quantized.ok()) return quantized.status();
  if (spec.scheme != Scheme::kNone) files.Release(tensor);
  if (read == rows) return quantized;
  const QuantizedWeight wanted =
      quantized->RowSlice(real.begin - read.begin, real.end - read.begin);
  return StackRows({wanted}, rows.size());
}

absl::Status VerifyRows(const QuantizedWeight& weight, const std::string& name) {
  std::atomic<bool> good{true};
  ForEachChunk(weight.n, RowsPerChunk(weight.k), [&](int64_t, Slice rows) {
    if (!VerifyCertificate(weight.RowSlice(rows.begin, rows.end), name).ok()) good = false;
  });
  return good ? absl::OkStatus() : VerifyCertificate(weight, name);  // names the tensor's own row
}

WeightError MeasureError(const Tensor& weight, const QuantizedWeight& quantized) {
  const int64_t rows_per_chunk = RowsPerChunk(weight.cols());
  std::vector<WeightError> parts(
      static_cast<size_t>((weight.rows() + rows_per_chunk - 1) / rows_per_chunk));
  ForEachChunk(weight.rows(), rows_per_chunk, [&](int64_t chunk, Slice rows) {
    parts[chunk] =
        ErrorOf(weight.Rows(rows.begin, rows.end), quantized.RowSlice(rows.begin, rows.end));
  });
  WeightError sum;
  for (const WeightError& part : parts) {
    sum.squared_error += part.squared_error;
    sum.squared_norm += part.squared_norm;
  }
  return sum;
}

}  // namespace intermix
