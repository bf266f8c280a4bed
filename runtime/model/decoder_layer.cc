#include "runtime/model/decoder_layer.h"

namespace intermix {

NormedRows Normalize(const Execution& exec, const Tensor& x, const Tensor& weight, float eps,
                     bool quantized) {
  const Tensor values = exec.Take(DType::kF32, {x.rows(), x.cols()});
  const Activations activations = quantized ? exec.TakeActivations(x.rows(), x.cols(), true)
                                            : Activations{.values = values, .scales = Tensor()};
  exec.backend.RmsNorm(x, weight, eps, values, activations);
  return {.values = values, .activations = activations};
}

void DecoderLayer::Forward(const ForwardContext& ctx, int64_t layer, Tensor residual) const {
  {
    const Workspace::Scope scope(ctx.exec.workspace);
    const NormedRows normed =
        Normalize(ctx.exec, residual, input_norm.view, norm_eps, attention->quantized());
    attention->Forward(ctx, layer, normed.activations, residual);
  }
  const Workspace::Scope scope(ctx.exec.workspace);
  const NormedRows normed =
      Normalize(ctx.exec, residual, post_attention_norm.view, norm_eps, feed_forward->quantized());
  feed_forward->Forward(ctx.exec, ctx.rows, normed, residual);
}

}  // namespace intermix
