#include "runtime/engine/step_executor.h"

#include "comm/byte_counts.h"
#include "moe/routing.h"
#include "runtime/engine/step_inputs.h"

namespace intermix {
namespace {

// From this many tokens per rank on, sharding tokens saves more than its extra collectives cost.
constexpr int64_t kShardedTokensPerRank = 16;

}  // namespace

StepExecutor::StepExecutor(const Transformer& model, const KvCache& cache,
                           const ParallelGroups& groups, Backend& backend,
                           RankOptions::Dispatch dispatch)
    : model_(model),
      cache_(cache),
      groups_(groups),
      backend_(backend),
      dispatch_(dispatch),
      workspace_([&backend](size_t bytes) { return backend.Allocate(bytes); }) {}

TokenPlacement StepExecutor::PlacementOf(const Batch& batch) const {
  switch (dispatch_) {
    case RankOptions::Dispatch::kAllToAll:
      return TokenPlacement::kSharded;
    case RankOptions::Dispatch::kReplicated:
      return TokenPlacement::kReplicated;
    case RankOptions::Dispatch::kAuto:
      break;
  }
  const int world = groups_.world->size();
  return world > 1 && batch.num_tokens() >= kShardedTokensPerRank * world
             ? TokenPlacement::kSharded
             : TokenPlacement::kReplicated;
}

Tensor StepExecutor::Run(const Batch& batch) {
  const Workspace::Scope scope(workspace_);
  const Execution exec = {.backend = backend_, .workspace = workspace_};
  const StepInputs inputs = MakeStepInputs(batch, groups_.layout.dp_rank(groups_.rank()),
                                           static_cast<int32_t>(cache_.shape().block_size));
  const ForwardContext ctx = {
      .exec = exec,
      .cache = cache_,
      .rows = TensorGroup(*groups_.tp).Place(inputs.num_tokens(), PlacementOf(batch)),
      .token_ids = ToTensor(exec, inputs.token_ids),
      .paged = {.positions = ToTensor(exec, inputs.positions),
                .slots = ToTensor(exec, inputs.slots),
                .query_starts = ToTensor(exec, inputs.query_starts),
                .block_tables = ToTensor(exec, inputs.block_tables, inputs.max_blocks)},
      .logits_tokens = ToTensor(exec, inputs.logits_tokens)};
  return CollectLogits(batch, model_.Forward(ctx));
}

Tensor StepExecutor::CollectLogits(const Batch& batch, const Tensor& mine) {
  const Execution exec = {.backend = backend_, .workspace = workspace_};
  const ParallelLayout& layout = groups_.layout;
  const std::vector<int64_t> group_rows = LogitsRowsOfGroups(batch, layout.dp);
  const bool root = groups_.rank() == 0;

  std::vector<int64_t> send(layout.world, 0);
  std::vector<int64_t> recv(layout.world, 0);
  send[0] = mine.bytes();
  if (root) {
    for (int r = 0; r < layout.world; ++r) {
      recv[r] = group_rows[layout.dp_rank(r)] * BytesPerRow(mine);
    }
  }
  const Tensor shards = exec.Take(DType::kF32, {Total(recv) / BytesPerRow(mine), mine.cols()});
  groups_.world->AllToAll(mine.raw(), send, shards.raw(), recv);
  if (!root) return Tensor();

  // Group after group, each group's vocabulary slices one after the other -> whole rows.
  const int64_t padded_vocab = model_.plan().padded_vocab_size;
  const Tensor rows = exec.Take(DType::kF32, {Total(group_rows), padded_vocab});
  int64_t begin = 0;
  for (int g = 0; g < layout.dp; ++g) {
    const int64_t end = begin + group_rows[g];
    const Tensor group(shards.Rows(begin * layout.tp, end * layout.tp).raw(), DType::kF32,
                       {layout.tp, end - begin, mine.cols()});
    backend_.MergeColumns(group, rows.Rows(begin, end));
    begin = end;
  }
  const Tensor ordered = exec.Take(DType::kF32, {rows.rows(), padded_vocab});
  backend_.GatherRows(rows, ToTensor(exec, LogitsRowOrder(batch, layout.dp)), ordered);
  return ordered.Cols(0, model_.config().vocab_size);
}

}  // namespace intermix
