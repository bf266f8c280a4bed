// Transformer: one rank's shard of a Mixtral or LLaMA model, and its forward pass.
// Immutable after loading but for counters; Forward runs on the rank's engine thread.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "comm/parallel_groups.h"
#include "kernels/backend.h"
#include "moe/moe_block.h"
#include "runtime/checkpoint/checkpoint.h"
#include "runtime/model/decoder_layer.h"
#include "runtime/model/forward_context.h"

namespace intermix {

class Transformer {
 public:
  // Called after each layer is loaded: bytes of weights done, and in all.
  using Progress = std::function<void(int64_t done, int64_t total)>;

  // Reads this rank's slices and packs them for the backend. `groups` and `backend` outlive the
  // model; the rope table covers `max_positions`. Not collective: ranks may load at their own pace.
  static absl::StatusOr<std::unique_ptr<Transformer>> Load(const Checkpoint& checkpoint,
                                                           const ParallelGroups& groups,
                                                           Backend& backend, int64_t max_positions,
                                                           const Progress& progress);

  // One step. Returns this rank's slice of the wanted tokens' logits,
  // [logits_tokens, padded_vocab / tp] float32, in the workspace.
  Tensor Forward(const ForwardContext& ctx) const;

  const ModelConfig& config() const { return config_; }
  const ShardPlan& plan() const { return plan_; }
  int64_t weight_bytes() const;
  // [layers, this rank's experts] int32 on the device: rows that each worked on since start, modulo
  // 2^32. Empty for a dense model.
  const Tensor& expert_totals() const { return expert_totals_.view; }

 private:
  friend class TransformerLoader;
  Transformer(const ModelConfig& config, const ShardPlan& plan, const ParallelGroups& groups)
      : config_(config), plan_(plan), tp_(*groups.tp) {}

  Tensor Embed(const ForwardContext& ctx) const;
  NextNorm NormBefore(size_t layer) const;
  Tensor Logits(const ForwardContext& ctx, const Activations& normed) const;

  ModelConfig config_;
  ShardPlan plan_;
  TensorGroup tp_;
  Dispatchers dispatchers_;
  OwnedTensor expert_totals_;
  OwnedTensor embedding_;  // [vocab, hidden / tp]: this rank's columns
  OwnedTensor rope_;       // [positions, head_dim] float32
  std::vector<DecoderLayer> layers_;
  OwnedTensor final_norm_;                 // [hidden] float32
  std::unique_ptr<PackedWeight> lm_head_;  // [padded_vocab / tp, hidden]
};

}  // namespace intermix
