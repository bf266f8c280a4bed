#include "moe/residual_stream.h"

namespace intermix {

ResidualStream::ResidualStream(const Execution& exec, const Tensor& rows, const NextNorm& first)
    : rows_(rows),
      values_(exec.Take(DType::kF32, {rows.rows(), rows.cols()})),
      codes_(exec.TakeActivations(rows.rows(), rows.cols(), /*quantized=*/true)),
      normed_(RowsFor(first.quantized)) {
  exec.backend.RmsNorm(rows_, first.norm, normed_);
}

NormedRows ResidualStream::RowsFor(bool quantized) const {
  return {.values = values_,
          .activations = quantized ? codes_ : Activations{.values = values_, .scales = Tensor()}};
}

void ResidualStream::Add(const Execution& exec, const Slice& tokens, const Delta& delta,
                         const NextNorm& next) {
  normed_ = RowsFor(next.quantized);
  exec.backend.AddRmsNorm(delta, rows_.Rows(tokens.begin, tokens.end), next.norm,
                          normed_.Rows(tokens.begin, tokens.end));
}

}  // namespace intermix
