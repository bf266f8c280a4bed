#include "runtime/model/decoder_layer.h"

namespace intermix {

void DecoderLayer::Forward(const ForwardContext& ctx, int64_t layer, const NextNorm& next,
                           ResidualStream& stream) const {
  {
    const Workspace::Scope scope(ctx.exec.workspace);
    const NextNorm middle = {.norm = {.weight = post_attention_norm.view, .eps = norm_eps},
                             .quantized = feed_forward->quantized()};
    attention->Forward(ctx, layer, middle, stream);
  }
  const Workspace::Scope scope(ctx.exec.workspace);
  feed_forward->Forward(ctx.exec, ctx.rows, next, stream);
}

}  // namespace intermix
