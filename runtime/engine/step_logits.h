// StepLogits: what a step tells of the rows that were wanted. Views, valid until the next step.
#pragma once

#include "kernels/core/tensor.h"

namespace intermix {

struct StepLogits {
  // [rows, vocab_size] float32 by token id, or [rows, n] of the n likeliest tokens, the likeliest
  // first (as Backend::TopK orders them). On the host; rows may be strided.
  Tensor values;
  Tensor ids;  // [rows, n] int32: the tokens; empty where `values` has the whole vocabulary

  StepLogits Rows(int64_t begin, int64_t end) const {
    return {.values = values.Rows(begin, end),
            .ids = ids.empty() ? Tensor() : ids.Rows(begin, end)};
  }
};

}  // namespace intermix
