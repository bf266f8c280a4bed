// Transformer::Load: which tensor goes where, by the names that Hugging Face transformers gives
// them.
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "moe/dense_mlp.h"
#include "runtime/model/rope.h"
#include "runtime/model/transformer.h"

namespace intermix {

class TransformerLoader {
 public:
  TransformerLoader(const Checkpoint& checkpoint, const ParallelGroups& groups, Backend& backend,
                    Transformer& model)
      : checkpoint_(checkpoint),
        config_(checkpoint.config()),
        groups_(groups),
        backend_(backend),
        model_(model),
        plan_(model.plan_) {}

  absl::Status Run(int64_t max_positions, const Transformer::Progress& progress) {
    model_.rope_ = ToDevice(MakeRopeTable(config_, max_positions));
    if (config_.is_moe()) PrepareExperts();
    if (absl::Status s = LoadEnds(); !s.ok()) return s;
    const int64_t ends = model_.weight_bytes();
    for (int64_t i = 0; i < config_.num_hidden_layers; ++i) {
      if (absl::Status s = LoadLayer(i); !s.ok()) return s;
      if (progress) Report(progress, ends, i + 1);
    }
    return absl::OkStatus();
  }

 private:
  // One linear layer's rows, to be packed together with others of the same input.
  struct Part {
    std::string name;
    int64_t n;
    Slice rows;
  };

  // All layers are alike, so the first ones tell how many bytes there will be: `ends`, which is
  // beside them, and theirs.
  void Report(const Transformer::Progress& progress, int64_t ends, int64_t layers) const {
    const int64_t done = model_.weight_bytes();
    progress(done, ends + (done - ends) / layers * config_.num_hidden_layers);
  }

  ExpertPlacement Placement() const {
    return {.num_experts = static_cast<int>(config_.num_local_experts), .layout = groups_.layout};
  }

  void PrepareExperts() {
    model_.dispatchers_ = MakeDispatchers(Placement(), groups_);
    const int64_t count = config_.num_hidden_layers * plan_.experts.size();
    OwnedTensor& totals = model_.expert_totals_;
    totals.buffer = backend_.Allocate(static_cast<size_t>(count) * sizeof(int32_t));
    totals.view =
        totals.buffer.View(DType::kI32, {config_.num_hidden_layers, plan_.experts.size()});
  }

  absl::StatusOr<std::vector<QuantizedWeight>> LoadParts(const std::vector<Part>& parts,
                                                         int64_t k) {
    std::vector<QuantizedWeight> weights;
    for (const Part& part : parts) {
      absl::StatusOr<QuantizedWeight> weight =
          checkpoint_.LoadLinear(part.name, part.n, k, part.rows);
      if (!weight.ok()) return weight.status();
      weights.push_back(*std::move(weight));
    }
    return weights;
  }

  absl::StatusOr<std::unique_ptr<PackedWeight>> Linear(const std::vector<Part>& parts, int64_t k) {
    const absl::StatusOr<std::vector<QuantizedWeight>> weights = LoadParts(parts, k);
    if (!weights.ok()) return weights.status();
    return backend_.Prepack(*weights);
  }

  absl::StatusOr<std::unique_ptr<PackedWeight>> Gated(const Part& gate, const Part& up, int64_t k) {
    const absl::StatusOr<std::vector<QuantizedWeight>> weights = LoadParts({gate, up}, k);
    if (!weights.ok()) return weights.status();
    return backend_.PrepackGated(weights->front(), weights->back());
  }

  // A host tensor as the device holds it.
  OwnedTensor ToDevice(OwnedTensor host) {
    if (backend_.device() == Device::kCpu) return host;
    OwnedTensor copy = {.buffer = backend_.Allocate(static_cast<size_t>(host.view.bytes()))};
    const bool vector = host.view.rank() == 1;
    copy.view = vector ? copy.buffer.View(host.view.dtype(), {host.view.rows()})
                       : copy.buffer.View(host.view.dtype(), {host.view.rows(), host.view.cols()});
    backend_.CopyToDevice(host.view.raw(), copy.view);
    return copy;
  }

  // LoadTensor on the device.
  absl::StatusOr<OwnedTensor> Dense(const std::string& name, int64_t n, int64_t k, Slice rows,
                                    Slice cols, DType dtype) {
    absl::StatusOr<OwnedTensor> tensor = checkpoint_.LoadTensor(name, n, k, rows, cols, dtype);
    if (!tensor.ok()) return tensor.status();
    return ToDevice(*std::move(tensor));
  }

  absl::StatusOr<OwnedTensor> Norm(const std::string& name) {
    const int64_t hidden = config_.hidden_size;
    return Dense(name, 1, hidden, {.begin = 0, .end = 1}, {.begin = 0, .end = hidden}, DType::kF32);
  }

  absl::Status LoadEnds() {
    const std::string embedding = "model.embed_tokens.weight";
    absl::StatusOr<DType> dtype = checkpoint_.ExactDType(embedding);
    if (!dtype.ok()) return dtype.status();
    absl::StatusOr<OwnedTensor> table =
        Dense(embedding, config_.vocab_size, config_.hidden_size,
              {.begin = 0, .end = config_.vocab_size}, plan_.hidden, *dtype);
    if (!table.ok()) return table.status();
    model_.embedding_ = *std::move(table);

    absl::StatusOr<OwnedTensor> norm = Norm("model.norm.weight");
    if (!norm.ok()) return norm.status();
    model_.final_norm_ = *std::move(norm);

    absl::StatusOr<std::unique_ptr<PackedWeight>> head = Linear(
        {{.name = "lm_head", .n = config_.vocab_size, .rows = plan_.vocab}}, config_.hidden_size);
    if (!head.ok()) return head.status();
    model_.lm_head_ = *std::move(head);
    return absl::OkStatus();
  }

  absl::Status LoadLayer(int64_t layer) {
    const std::string prefix = absl::StrCat("model.layers.", layer, ".");
    absl::StatusOr<OwnedTensor> input_norm = Norm(prefix + "input_layernorm.weight");
    if (!input_norm.ok()) return input_norm.status();
    absl::StatusOr<OwnedTensor> post_norm = Norm(prefix + "post_attention_layernorm.weight");
    if (!post_norm.ok()) return post_norm.status();
    absl::StatusOr<std::unique_ptr<AttentionLayer>> attention =
        LoadAttention(prefix + "self_attn.");
    if (!attention.ok()) return attention.status();
    absl::StatusOr<std::unique_ptr<FeedForward>> feed_forward =
        config_.is_moe() ? LoadMoe(layer, prefix + "block_sparse_moe.") : LoadMlp(prefix + "mlp.");
    if (!feed_forward.ok()) return feed_forward.status();
    model_.layers_.push_back({.input_norm = *std::move(input_norm),
                              .post_attention_norm = *std::move(post_norm),
                              .norm_eps = static_cast<float>(config_.rms_norm_eps),
                              .attention = *std::move(attention),
                              .feed_forward = *std::move(feed_forward)});
    return absl::OkStatus();
  }

  absl::StatusOr<std::unique_ptr<AttentionLayer>> LoadAttention(const std::string& prefix) {
    const int64_t head_dim = config_.head_dim;
    const int64_t q_rows = config_.num_attention_heads * head_dim;
    const int64_t kv_rows = config_.num_key_value_heads * head_dim;
    const Slice q = {.begin = plan_.heads.begin * head_dim, .end = plan_.heads.end * head_dim};
    const Slice kv = {.begin = plan_.kv_heads.begin * head_dim,
                      .end = plan_.kv_heads.end * head_dim};
    absl::StatusOr<std::unique_ptr<PackedWeight>> qkv =
        Linear({{.name = prefix + "q_proj", .n = q_rows, .rows = q},
                {.name = prefix + "k_proj", .n = kv_rows, .rows = kv},
                {.name = prefix + "v_proj", .n = kv_rows, .rows = kv}},
               config_.hidden_size);
    if (!qkv.ok()) return qkv.status();
    absl::StatusOr<std::unique_ptr<PackedWeight>> o = Linear(
        {{.name = prefix + "o_proj", .n = config_.hidden_size, .rows = plan_.hidden}}, q_rows);
    if (!o.ok()) return o.status();
    return std::make_unique<AttentionLayer>(
        AttentionLayer::Options{.qkv = *std::move(qkv),
                                .o = *std::move(o),
                                .kv_head_of = plan_.kv_head_of,
                                .num_kv_heads = plan_.kv_heads.size(),
                                .head_dim = head_dim,
                                .rope = model_.rope_.view,
                                .tp = *groups_.tp});
  }

  struct ExpertNames {
    std::string gate, up, down;
  };

  absl::StatusOr<ExpertWeights> LoadExpert(const ExpertNames& names, Slice intermediate,
                                           Slice hidden) {
    absl::StatusOr<std::unique_ptr<PackedWeight>> gate_up =
        Gated({.name = names.gate, .n = config_.intermediate_size, .rows = intermediate},
              {.name = names.up, .n = config_.intermediate_size, .rows = intermediate},
              config_.hidden_size);
    if (!gate_up.ok()) return gate_up.status();
    absl::StatusOr<std::unique_ptr<PackedWeight>> down =
        Linear({{.name = names.down, .n = config_.hidden_size, .rows = hidden}},
               config_.intermediate_size);
    if (!down.ok()) return down.status();
    return ExpertWeights{.gate_up = *std::move(gate_up), .down = *std::move(down)};
  }

  absl::StatusOr<std::unique_ptr<FeedForward>> LoadMlp(const std::string& prefix) {
    absl::StatusOr<ExpertWeights> weights = LoadExpert(
        {.gate = prefix + "gate_proj", .up = prefix + "up_proj", .down = prefix + "down_proj"},
        plan_.intermediate, plan_.hidden);
    if (!weights.ok()) return weights.status();
    return std::make_unique<DenseMlp>(*std::move(weights), *groups_.tp);
  }

  absl::StatusOr<std::unique_ptr<FeedForward>> LoadMoe(int64_t layer, const std::string& prefix) {
    const int64_t hidden = config_.hidden_size;
    const int64_t num_experts = config_.num_local_experts;
    absl::StatusOr<OwnedTensor> gate =
        Dense(prefix + "gate.weight", num_experts, hidden, {.begin = 0, .end = num_experts},
              {.begin = 0, .end = hidden}, DType::kF32);
    if (!gate.ok()) return gate.status();
    std::vector<ExpertWeights> experts;
    for (int64_t e = plan_.experts.begin; e < plan_.experts.end; ++e) {
      const std::string expert = absl::StrCat(prefix, "experts.", e, ".");
      absl::StatusOr<ExpertWeights> weights =
          LoadExpert({.gate = expert + "w1", .up = expert + "w3", .down = expert + "w2"},
                     plan_.expert_intermediate, plan_.expert_hidden);
      if (!weights.ok()) return weights.status();
      experts.push_back(*std::move(weights));
    }
    return std::make_unique<MoeBlock>(
        MoeBlock::Options{.gate = *std::move(gate),
                          .experts = std::move(experts),
                          .top_k = static_cast<int>(config_.num_experts_per_tok),
                          .totals = model_.expert_totals_.view.At(layer),
                          .etp = *groups_.etp,
                          .dispatchers = model_.dispatchers_});
  }

  const Checkpoint& checkpoint_;
  const ModelConfig& config_;
  const ParallelGroups& groups_;
  Backend& backend_;
  Transformer& model_;
  const ShardPlan& plan_;
};

absl::StatusOr<std::unique_ptr<Transformer>> Transformer::Load(const Checkpoint& checkpoint,
                                                               const ParallelGroups& groups,
                                                               Backend& backend,
                                                               int64_t max_positions,
                                                               const Progress& progress) {
  absl::StatusOr<ShardPlan> plan =
      MakeShardPlan(checkpoint.config().shard_dims(), groups.layout, groups.rank());
  if (!plan.ok()) return plan.status();
  std::unique_ptr<Transformer> model(new Transformer(checkpoint.config(), *plan, groups));
  TransformerLoader loader(checkpoint, groups, backend, *model);
  if (absl::Status s = loader.Run(max_positions, progress); !s.ok()) return s;
  return model;
}

}  // namespace intermix
