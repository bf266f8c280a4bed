#include "runtime/model/transformer.h"

#include "moe/routing.h"

namespace intermix {

Tensor Transformer::Forward(const ForwardContext& ctx) const {
  ResidualStream stream(ctx.exec, Embed(ctx), NormBefore(0));
  for (size_t i = 0; i < layers_.size(); ++i) {
    layers_[i].Forward(ctx, static_cast<int64_t>(i), NormBefore(i + 1), stream);
  }
  return Logits(ctx, stream.normed().activations);
}

// The norm in front of a layer, or of lm_head.
NextNorm Transformer::NormBefore(size_t layer) const {
  if (layer < layers_.size()) return layers_[layer].first_norm();
  return {.norm = {.weight = final_norm_.view, .eps = static_cast<float>(config_.rms_norm_eps)},
          .quantized = lm_head_->quantized()};
}

Tensor Transformer::Embed(const ForwardContext& ctx) const {
  const Tensor shard = ctx.exec.Take(DType::kF32, {ctx.rows.tokens, embedding_.view.cols()});
  ctx.exec.backend.EmbedRows(ctx.token_ids, embedding_.view, shard);
  return tp_.ToResidual(ctx.exec, ctx.rows, shard);
}

// The wanted rows are gathered, unless all are, and met by each rank's vocabulary slice.
Tensor Transformer::Logits(const ForwardContext& ctx, const Activations& normed) const {
  const Execution& exec = ctx.exec;
  const LogitsRows& wanted = ctx.logits;
  const bool every_row = wanted.mine.rows() == normed.tokens();
  const Activations mine = every_row ? normed : GatherActivations(exec, normed, wanted.mine);
  const bool sharded = ctx.rows.placement == TokenPlacement::kSharded;
  const Activations all = sharded ? tp_.ConcatRows(exec, mine, wanted.counts) : mine;
  const Tensor logits = exec.Take(DType::kF32, {all.tokens(), lm_head_->n()});
  exec.backend.Gemm(all, *lm_head_, logits);
  return logits;
}

int64_t Transformer::weight_bytes() const {
  int64_t total = embedding_.view.bytes() + lm_head_->bytes() + final_norm_.view.bytes();
  for (const DecoderLayer& layer : layers_) {
    total += layer.attention->weight_bytes() + layer.feed_forward->weight_bytes() +
             layer.input_norm.view.bytes() + layer.post_attention_norm.view.bytes();
  }
  return total;
}

}  // namespace intermix
