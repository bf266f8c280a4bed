#include "runtime/model/attention_layer.h"

#include <cmath>
#include <utility>

namespace intermix {

AttentionLayer::AttentionLayer(Options options) : options_(std::move(options)), tp_(options_.tp) {}

void AttentionLayer::Forward(const ForwardContext& ctx, int64_t layer, const NextNorm& next,
                             ResidualStream& stream) const {
  const Execution& exec = ctx.exec;
  const int64_t tokens = ctx.rows.tokens;
  const int64_t q_cols = static_cast<int64_t>(options_.kv_head_of.size()) * options_.head_dim;
  const int64_t kv_cols = options_.num_kv_heads * options_.head_dim;

  const Activations all = tp_.AllTokens(exec, ctx.rows, stream.normed().activations);
  const Tensor qkv = exec.Take(DType::kF32, {tokens, q_cols + 2 * kv_cols});
  exec.backend.Gemm(all, *options_.qkv, qkv);

  const Tensor q = qkv.Cols(0, q_cols);
  const Tensor k = qkv.Cols(q_cols, q_cols + kv_cols);
  const Tensor v = qkv.Cols(q_cols + kv_cols, q_cols + 2 * kv_cols);
  const KvLayer cache = ctx.cache.layer(layer);
  exec.backend.RopeAndStoreKv(q, k, v, options_.rope, ctx.paged, cache);

  const Tensor heads = exec.Take(DType::kBF16, {tokens, q_cols});
  const float scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(options_.head_dim)));
  exec.backend.PagedAttention(q, ctx.paged, cache, options_.kv_head_of, scale, heads);

  const Activations whole =
      tp_.AllColumns(exec, ctx.rows.placement, heads, options_.o->quantized());
  const Tensor shard = exec.Take(DType::kBF16, {tokens, options_.o->n()});
  exec.backend.Gemm(whole, *options_.o, shard);
  stream.Add(exec, {.rows = tp_.ToResidual(exec, ctx.rows, shard)}, next);
}

}  // namespace intermix
