// DecoderLayer: norm, attention, norm, feed-forward; each half adds to the residual.
#pragma once

#include <memory>

#include "kernels/core/buffer.h"
#include "moe/feed_forward.h"
#include "runtime/model/attention_layer.h"
#include "runtime/model/forward_context.h"

namespace intermix {

struct DecoderLayer {
  OwnedTensor input_norm;           // [hidden] float32
  OwnedTensor post_attention_norm;  // [hidden] float32
  float norm_eps = 1e-5f;
  std::unique_ptr<AttentionLayer> attention;
  std::unique_ptr<FeedForward> feed_forward;

  //   residual  [rows.mine.size(), hidden] float32
  void Forward(const ForwardContext& ctx, int64_t layer, Tensor residual) const;
};

// RMSNorm into both forms that follow: float32 rows, and rows for a linear layer (the same memory
// where that layer takes float32).
NormedRows Normalize(const Execution& exec, const Tensor& x, const Tensor& weight, float eps,
                     bool quantized);

}  // namespace intermix
