#include "runtime/engine/memory_need.h"

#include "runtime/checkpoint/model_tensors.h"
#include "runtime/kv/kv_cache.h"

namespace intermix {
namespace {

// Of a linear layer's rows [n, k].
int64_t LinearBytes(const QuantSpec& spec, int64_t n, int64_t k) {
  if (spec.scheme == Scheme::kNone) return n * k * static_cast<int64_t>(ByteSize(DType::kBF16));
  const int64_t groups = spec.group_size == 0 ? 1 : k / spec.group_size;
  const bool integer = spec.scheme == Scheme::kInteger;
  const int64_t scale = static_cast<int64_t>(integer ? sizeof(int16_t) : sizeof(float));
  const int64_t channel_scale = integer ? static_cast<int64_t>(sizeof(float)) : 0;
  return n * (k * spec.bits / 8 + groups * scale + channel_scale);
}

}  // namespace

int64_t WeightBytes(const ModelConfig& config, const QuantSpec& spec, const ShardPlan& plan) {
  const int64_t hidden = config.hidden_size;
  const int64_t q = plan.heads.size() * config.head_dim;
  const int64_t kv = plan.kv_heads.size() * config.head_dim;
  int64_t layer =
      LinearBytes(spec, q + 2 * kv, hidden) +
      LinearBytes(spec, plan.hidden.size(), config.num_attention_heads * config.head_dim);
  if (config.is_moe()) {
    layer += config.num_local_experts * hidden * static_cast<int64_t>(sizeof(float));  // router
    layer += plan.experts.size() *
             (LinearBytes(spec, 2 * plan.expert_intermediate.size(), hidden) +
              LinearBytes(spec, plan.expert_hidden.size(), config.intermediate_size));
  } else {
    layer += LinearBytes(spec, 2 * plan.intermediate.size(), hidden) +
             LinearBytes(spec, plan.hidden.size(), config.intermediate_size);
  }
  const int64_t embedding =
      config.vocab_size * plan.hidden.size() * static_cast<int64_t>(ByteSize(DType::kBF16));
  const int64_t head = LinearBytes(SpecForLayer(spec, kLmHead), plan.vocab.size(), hidden);
  return config.num_hidden_layers * layer + embedding + head;
}

int64_t KvBytesPerToken(const ModelConfig& config, const ShardPlan& plan, DType kv_dtype) {
  return KvCacheShape{.num_layers = config.num_hidden_layers,
                      .num_kv_heads = plan.kv_heads.size(),
                      .block_size = 1,
                      .head_dim = config.head_dim,
                      .dtype = kv_dtype}
      .bytes_per_block();
}

}  // namespace intermix
