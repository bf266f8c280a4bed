// ResidualStream: the rows that a step's layers read and add to. Every layer ends with its sum and
// the norm of the layer that comes next, one op, so the stream holds both: the residual and the
// same rows normalised.
// Views of the step's workspace; engine thread only.
#pragma once

#include <cstdint>

#include "comm/execution.h"
#include "comm/sharding.h"
#include "kernels/backend.h"

namespace intermix {

// The norm in front of a layer, and whether that layer takes its rows as int8.
struct NextNorm {
  Norm norm;
  bool quantized = false;
};

class ResidualStream {
 public:
  // Takes memory of exec.workspace.
  //   rows   [tokens, hidden] float32, added to
  //   first  of the first layer
  ResidualStream(const Execution& exec, const Tensor& rows, const NextNorm& first);

  int64_t tokens() const { return rows_.rows(); }

  // What the layer that comes next reads. The next Add writes over it.
  const NormedRows& normed() const { return normed_; }

  // Adds a layer's results and normalises for the layer after it; of all tokens, or of some of
  // them (delta has these alone) where the others follow before normed() is read.
  void Add(const Execution& exec, const Delta& delta, const NextNorm& next) {
    Add(exec, {.begin = 0, .end = tokens()}, delta, next);
  }
  void Add(const Execution& exec, const Slice& tokens, const Delta& delta, const NextNorm& next);

 private:
  NormedRows RowsFor(bool quantized) const;

  Tensor rows_;
  Tensor values_;      // [tokens, hidden] float32
  Activations codes_;  // [tokens, hidden] int8
  NormedRows normed_;
};

}  // namespace intermix
