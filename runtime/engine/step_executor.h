// StepExecutor: runs one Batch on this rank, together with all other ranks.
// Engine thread only, but for expert_tokens().
#pragma once

#include <optional>
#include <vector>

#include "comm/parallel_groups.h"
#include "kernels/backend.h"
#include "kernels/core/buffer.h"
#include "moe/routing_stats.h"
#include "runtime/engine/batch.h"
#include "runtime/engine/rank.h"
#include "runtime/engine/step_graphs.h"
#include "runtime/engine/step_logits.h"
#include "runtime/kv/kv_cache.h"
#include "runtime/model/transformer.h"

namespace intermix {

class StepExecutor {
 public:
  struct Options {
    RankOptions::Dispatch dispatch = RankOptions::Dispatch::kAuto;
    bool cuda_graphs = true;
  };

  // All of these outlive the executor.
  StepExecutor(const Transformer& model, const KvCache& cache, const ParallelGroups& groups,
               Backend& backend, const Options& options);

  // Whether the device does the step by itself, from a recorded graph, so that Start returns early.
  bool RunsByItself(const Batch& batch) const;

  // Collective: every rank starts the same batch, which lives until Finish.
  void Start(const Batch& batch);

  // Waits until the device has finished the step. On rank 0, the wanted rows' logits in the order
  // of the batch's chunks, valid until the next Start; empty elsewhere.
  StepLogits Finish();

  StepLogits Run(const Batch& batch) {
    Start(batch);
    return Finish();
  }

  // Of every expert, since start; any thread.
  std::vector<int64_t> expert_tokens() const { return stats_.expert_tokens(); }

 private:
  TokenPlacement PlacementOf(const Batch& batch) const;
  // Whether it is, or will be, a graph; and which one.
  bool IsGraph(const Batch& batch) const;
  std::vector<int64_t> ShapeOf(const Batch& batch) const;
  // How many of the wanted logits each rank of the tensor group has the tokens of.
  std::vector<int64_t> CountLogitsRows(const TokenRows& rows,
                                       const std::vector<int32_t>& wanted) const;
  // This rank's slice of the wanted rows' logits. Steps that only decode are replayed as graphs.
  Tensor Forward(const Batch& batch, const ForwardContext& ctx);
  // Every rank's slice of the logits to rank 0, and on to its host after Synchronize.
  //   order  LogitsRowOrder, on the device
  Tensor CollectLogits(const Batch& batch, const Tensor& mine, const Tensor& order);
  // The likeliest tokens of every rank's slice likewise.
  Tensor CollectLikeliest(const Batch& batch, const Tensor& mine);
  // The likeliest of all slices.
  StepLogits MergeSlices(const Batch& batch, const Tensor& slices);
  // Brings a tensor to `host`, which grows where need be; it is there after Synchronize.
  Tensor StartToHost(const Tensor& tensor, Buffer& host);

  const Transformer& model_;
  const KvCache& cache_;
  const ParallelGroups& groups_;
  Backend& backend_;
  RankOptions::Dispatch dispatch_;
  RoutingStats stats_;
  // The step between Start and Finish.
  struct Pending {
    explicit Pending(StepExecutor& executor)
        : scope(executor.workspace_), logits_scope(executor.logits_workspace_) {}

    const Workspace::Scope scope;
    const Workspace::Scope logits_scope;
    const Batch* batch = nullptr;
    Tensor totals;     // on the host once the device is done, as what follows
    Tensor collected;  // rank 0
  };

  Workspace workspace_;         // up to the logits
  Workspace logits_workspace_;  // apart, since a replayed step takes nothing from the other
  StepGraphs graphs_;
  Buffer host_logits_;  // where the device's memory is not the host's
  Buffer host_totals_;
  std::vector<float> likeliest_values_;  // what MergeSlices returns
  std::vector<int32_t> likeliest_ids_;
  std::optional<Pending> pending_;  // ends before the memory that it lies in
};

}  // namespace intermix
