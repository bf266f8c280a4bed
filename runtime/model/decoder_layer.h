// DecoderLayer: norm, attention, norm, feed-forward; each half adds to the residual stream and
// normalises it for the half that comes next.
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

  // What the layer wants in front of it.
  NextNorm first_norm() const {
    return {.norm = {.weight = input_norm.view, .eps = norm_eps},
            .quantized = attention->quantized()};
  }

  //   next  the norm of what comes after this layer
  void Forward(const ForwardContext& ctx, int64_t layer, const NextNorm& next,
               ResidualStream& stream) const;
};

}  // namespace intermix
