// FeedForward: the second half of a decoder layer; a dense MLP (LLaMA) or a mixture of experts
// (Mixtral). The layer above does not know which.
#pragma once

#include <cstdint>

#include "comm/execution.h"
#include "comm/parallel_linear.h"
#include "kernels/backend.h"
#include "moe/residual_stream.h"

namespace intermix {

class FeedForward {
 public:
  virtual ~FeedForward() = default;

  // Whether activations must be int8.
  virtual bool quantized() const = 0;

  // Adds the block's output to the stream, of rows.mine.size() tokens.
  //   next  the norm of the layer after this one
  virtual void Forward(const Execution& exec, const TokenRows& rows, const NextNorm& next,
                       ResidualStream& stream) = 0;

  virtual int64_t weight_bytes() const = 0;
};

}  // namespace intermix
