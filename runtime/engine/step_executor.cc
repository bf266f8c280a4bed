#include "runtime/engine/step_executor.h"

#include <algorithm>
#include <iterator>

#include "comm/byte_counts.h"
#include "runtime/engine/merge_likeliest.h"
#include "runtime/engine/step_inputs.h"

namespace intermix {
namespace {

// From this many tokens per rank on, sharding tokens saves more than its extra collectives cost.
constexpr int64_t kShardedTokensPerRank = 16;

// The wanted tokens that a rank has, as its rows.
//   wanted  ascending
std::vector<int32_t> RowsWithin(const Slice& mine, const std::vector<int32_t>& wanted) {
  std::vector<int32_t> rows;
  for (int32_t token : wanted) {
    if (mine.begin <= token && token < mine.end) {
      rows.push_back(token - static_cast<int32_t>(mine.begin));
    }
  }
  return rows;
}

}  // namespace

StepExecutor::StepExecutor(const Transformer& model, const KvCache& cache,
                           const ParallelGroups& groups, Backend& backend, const Options& options)
    : model_(model),
      cache_(cache),
      groups_(groups),
      backend_(backend),
      dispatch_(options.dispatch),
      stats_(model.config().num_local_experts, model.plan().experts.begin),
      workspace_([&backend](size_t bytes) { return backend.Allocate(bytes); }),
      logits_workspace_([&backend](size_t bytes) { return backend.Allocate(bytes); }),
      graphs_(backend, *groups.control, options.cuda_graphs) {}

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

std::vector<int64_t> StepExecutor::CountLogitsRows(const TokenRows& rows,
                                                   const std::vector<int32_t>& wanted) const {
  std::vector<int64_t> counts;
  const int tp = groups_.tp->size();
  for (int r = 0; r < tp; ++r) {
    const Slice part = Part(rows.tokens, tp, r);
    counts.push_back(std::ranges::lower_bound(wanted, part.end) -
                     std::ranges::lower_bound(wanted, part.begin));
  }
  return counts;
}

void StepExecutor::Start(const Batch& batch) {
  CHECK(!pending_.has_value());
  pending_.emplace(*this);
  pending_->batch = &batch;
  const Execution exec = {.backend = backend_, .workspace = workspace_};
  const int dp_rank = groups_.layout.dp_rank(groups_.rank());
  const StepInputs inputs =
      MakeStepInputs(batch, dp_rank, static_cast<int32_t>(cache_.shape().block_size));
  const TokenRows rows =
      TensorGroup(*groups_.tp)
          .Place(TokensOfGroups(batch, groups_.layout.dp), dp_rank, PlacementOf(batch));
  // What has the same size in all steps of a shape comes first, so that it keeps its place.
  const auto [token_ids, positions, slots, query_starts, block_tables, logits_mine, logits_order] =
      exec.Upload<7>({inputs.token_ids, inputs.positions, inputs.slots, inputs.query_starts,
                      inputs.block_tables, RowsWithin(rows.mine, inputs.logits_tokens),
                      LogitsRowOrder(batch, groups_.layout.dp)});
  const ForwardContext ctx = {
      .exec = exec,
      .cache = cache_,
      .rows = rows,
      .token_ids = token_ids,
      .paged = {.positions = positions,
                .slots = slots,
                .query_starts = query_starts,
                .block_tables = block_tables.Reshape({inputs.num_sequences(), inputs.max_blocks})},
      .logits = {.mine = logits_mine, .counts = CountLogitsRows(rows, inputs.logits_tokens)}};
  const Tensor mine = Forward(batch, ctx);
  pending_->collected = batch.likeliest > 0 ? CollectLikeliest(batch, mine)
                                            : CollectLogits(batch, mine, logits_order);
  // Last: the device takes longest from kernels to copies and back.
  pending_->totals = StartToHost(model_.expert_totals(), host_totals_);
}

StepLogits StepExecutor::Finish() {
  CHECK(pending_.has_value());
  backend_.Synchronize();
  stats_.Update(pending_->totals);
  StepLogits logits;
  if (groups_.rank() == 0) {
    const Tensor& collected = pending_->collected;
    if (pending_->batch->likeliest > 0) {
      logits = MergeSlices(*pending_->batch, collected);
    } else {
      logits.values = collected.Cols(0, model_.config().vocab_size);
    }
  }
  pending_.reset();
  return logits;
}

bool StepExecutor::IsGraph(const Batch& batch) const {
  const bool decodes = std::ranges::all_of(
      batch.chunks, [](const SequenceChunk& chunk) { return chunk.tokens.size() == 1; });
  return graphs_.wanted() && decodes && PlacementOf(batch) == TokenPlacement::kReplicated;
}

std::vector<int64_t> StepExecutor::ShapeOf(const Batch& batch) const {
  std::vector<int64_t> shape = TokensOfGroups(batch, groups_.layout.dp);
  std::ranges::copy(LogitsRowsOfGroups(batch, groups_.layout.dp), std::back_inserter(shape));
  shape.push_back(BlockTableColumns(batch));
  return shape;
}

bool StepExecutor::RunsByItself(const Batch& batch) const {
  return IsGraph(batch) && graphs_.Replays(ShapeOf(batch));
}

Tensor StepExecutor::Forward(const Batch& batch, const ForwardContext& ctx) {
  const auto forward = [&] { return model_.Forward(ctx); };
  return IsGraph(batch) ? graphs_.Run(ShapeOf(batch), ctx.token_ids.raw(), forward) : forward();
}

Tensor StepExecutor::CollectLogits(const Batch& batch, const Tensor& mine, const Tensor& order) {
  const Execution exec = {.backend = backend_, .workspace = logits_workspace_};
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
                       {layout.tp, end - begin, mine.cols()}, shards.device());
    backend_.MergeColumns(group, rows.Rows(begin, end));
    begin = end;
  }
  const Tensor ordered = exec.Take(DType::kF32, {rows.rows(), padded_vocab});
  backend_.GatherRows(rows, order, ordered);
  return StartToHost(ordered, host_logits_);
}

Tensor StepExecutor::CollectLikeliest(const Batch& batch, const Tensor& mine) {
  const Execution exec = {.backend = backend_, .workspace = logits_workspace_};
  const ParallelLayout& layout = groups_.layout;
  const int64_t k = batch.likeliest;
  const int64_t vocab_size = model_.config().vocab_size;
  CHECK_LE(k, vocab_size);
  CHECK_EQ(mine.cols(), model_.plan().vocab.size());

  // Values above columns, so that both travel together.
  const int64_t rows = mine.rows();
  const Tensor found = exec.Take(DType::kI32, {2 * rows, k});
  const int64_t left = vocab_size - model_.plan().vocab.begin;  // what follows is padding
  backend_.TopK(mine.Cols(0, std::clamp<int64_t>(left, 0, mine.cols())),
                Tensor(found.raw(), DType::kF32, {rows, k}, found.device()),
                found.Rows(rows, 2 * rows));

  const std::vector<int64_t> group_rows = LogitsRowsOfGroups(batch, layout.dp);
  const bool root = groups_.rank() == 0;
  std::vector<int64_t> send(layout.world, 0);
  std::vector<int64_t> recv(layout.world, 0);
  send[0] = found.bytes();
  for (int r = 0; root && r < layout.world; ++r) {
    recv[r] = 2 * group_rows[layout.dp_rank(r)] * BytesPerRow(found);
  }
  const Tensor shards = exec.Take(DType::kI32, {Total(recv) / BytesPerRow(found), k});
  groups_.world->AllToAll(found.raw(), send, shards.raw(), recv);
  return root ? StartToHost(shards, host_logits_) : Tensor();
}

StepLogits StepExecutor::MergeSlices(const Batch& batch, const Tensor& slices) {
  const ParallelLayout& layout = groups_.layout;
  const int64_t k = batch.likeliest;
  const int64_t columns = model_.plan().vocab.size();
  const std::vector<int32_t> order = LogitsRowOrder(batch, layout.dp);
  std::vector<int32_t> place(order.size());  // the opposite
  for (size_t i = 0; i < order.size(); ++i) place[order[i]] = static_cast<int32_t>(i);
  likeliest_values_.resize(order.size() * static_cast<size_t>(k));
  likeliest_ids_.resize(likeliest_values_.size());
  const StepLogits logits = {
      .values = Tensor(likeliest_values_.data(), DType::kF32, {std::ssize(order), k}),
      .ids = Tensor(likeliest_ids_.data(), DType::kI32, {std::ssize(order), k})};
  int64_t begin = 0;
  for (int64_t count : LogitsRowsOfGroups(batch, layout.dp)) {
    const Tensor group(slices.Rows(2 * begin * layout.tp, 2 * (begin + count) * layout.tp).raw(),
                       DType::kI32, {layout.tp, 2, count, k});
    MergeLikeliest(group, columns, std::span(place).subspan(begin, count), logits);
    begin += count;
  }
  return logits;
}

Tensor StepExecutor::StartToHost(const Tensor& tensor, Buffer& host) {
  if (tensor.empty() || tensor.device() == Device::kCpu) return tensor;
  const size_t bytes = static_cast<size_t>(tensor.bytes());
  if (host.bytes() < bytes) host = backend_.AllocateHost(bytes);
  const Tensor copy = host.View(tensor.dtype(), {tensor.rows(), tensor.cols()});
  backend_.StartCopyToHost(tensor, copy.raw());
  return copy;
}

}  // namespace intermix
