// FeedForward: the second half of a decoder layer; a dense MLP (LLaMA) or a mixture of experts
// (Mixtral). The layer above does not know which.
#pragma once

#include <cstdint>

#include "comm/execution.h"
#include "comm/parallel_linear.h"
#include "kernels/backend.h"

namespace intermix {

// The normalised residual, in both forms that a feed-forward may need.
struct NormedRows {
  Tensor values;            // [rows.mine.size(), hidden] float32
  Activations activations;  // the same rows as linear layers take them
};

class FeedForward {
 public:
  virtual ~FeedForward() = default;

  // Whether activations must be int8.
  virtual bool quantized() const = 0;

  // residual += the block's output.
  //   residual  [rows.mine.size(), hidden] float32
  virtual void Forward(const Execution& exec, const TokenRows& rows, const NormedRows& normed,
                       Tensor residual) = 0;

  virtual int64_t weight_bytes() const = 0;
};

}  // namespace intermix
