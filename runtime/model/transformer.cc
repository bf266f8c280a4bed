#include "runtime/model/transformer.h"

namespace intermix {

Tensor Transformer::Forward(const ForwardContext& ctx) const {
  const Tensor residual = Embed(ctx);
  for (size_t i = 0; i < layers_.size(); ++i) {
    layers_[i].Forward(ctx, static_cast<int64_t>(i), residual);
  }
  return Logits(ctx, residual);
}

Tensor Transformer::Embed(const ForwardContext& ctx) const {
  const Tensor shard = ctx.exec.Take(DType::kF32, {ctx.rows.tokens, embedding_.view.cols()});
  ctx.exec.backend.EmbedRows(ctx.token_ids, embedding_.view, shard);
  return tp_.ToResidual(ctx.exec, ctx.rows, shard);
}

// The wanted rows are normalised where they are, gathered, and met by each rank's vocabulary slice.
Tensor Transformer::Logits(const ForwardContext& ctx, const Tensor& residual) const {
  const Execution& exec = ctx.exec;
  const LogitsRows& wanted = ctx.logits;
  const Tensor rows = exec.Take(DType::kF32, {wanted.mine.rows(), residual.cols()});
  exec.backend.GatherRows(residual, wanted.mine, rows);
  const NormedRows normed =
      Normalize(exec, rows, final_norm_.view, static_cast<float>(config_.rms_norm_eps),
                lm_head_->quantized());
  const bool sharded = ctx.rows.placement == TokenPlacement::kSharded;
  const Activations all =
      sharded ? tp_.ConcatRows(exec, normed.activations, wanted.counts) : normed.activations;
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
