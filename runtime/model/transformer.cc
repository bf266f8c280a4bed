#include "runtime/model/transformer.h"

#include <algorithm>

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
  const int32_t* wanted = ctx.logits_tokens.data<int32_t>();
  const int64_t num_wanted = ctx.logits_tokens.rows();
  const auto in_part = [&](const Slice& part) {
    return std::lower_bound(wanted, wanted + num_wanted, part.end) -
           std::lower_bound(wanted, wanted + num_wanted, part.begin);
  };

  const int64_t mine = in_part(ctx.rows.mine);
  const Tensor index = exec.Take(DType::kI32, {mine});
  const int32_t* first = std::lower_bound(wanted, wanted + num_wanted, ctx.rows.mine.begin);
  std::transform(first, first + mine, index.data<int32_t>(),
                 [&](int32_t token) { return token - static_cast<int32_t>(ctx.rows.mine.begin); });
  const Tensor rows = exec.Take(DType::kF32, {mine, residual.cols()});
  exec.backend.GatherRows(residual, index, rows);
  const NormedRows normed =
      Normalize(exec, rows, final_norm_.view, static_cast<float>(config_.rms_norm_eps),
                lm_head_->quantized());

  Activations all = normed.activations;
  if (ctx.rows.placement == TokenPlacement::kSharded) {
    std::vector<int64_t> counts;
    for (int r = 0; r < tp_.size(); ++r)
      counts.push_back(in_part(Part(ctx.rows.tokens, tp_.size(), r)));
    all = tp_.ConcatRows(exec, all, counts);
  }
  const Tensor logits = exec.Take(DType::kF32, {num_wanted, lm_head_->n()});
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

std::vector<int64_t> Transformer::expert_tokens() const {
  std::vector<int64_t> total(config_.num_local_experts, 0);
  for (const DecoderLayer& layer : layers_) {
    const std::vector<int64_t> counts = layer.feed_forward->expert_tokens();
    for (size_t e = 0; e < counts.size(); ++e) total[e] += counts[e];
  }
  return total;
}

}  // namespace intermix
