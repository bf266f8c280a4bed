#include "comm/parallel_linear.h"

#include <vector>

#include "comm/byte_counts.h"
#include "kernels/core/check.h"

namespace intermix {
TokenRows TensorGroup::Place(const std::vector<int64_t>& group_tokens, int dp_rank,
                             TokenPlacement placement) const {
  const int64_t tokens = group_tokens[dp_rank];
  const Slice all = {.begin = 0, .end = tokens};
  return {.placement = placement,
          .group_tokens = group_tokens,
          .tokens = tokens,
          .mine = placement == TokenPlacement::kSharded ? Part(tokens, size(), rank()) : all};
}

Activations TensorGroup::AllTokens(const Execution& exec, const TokenRows& rows,
                                   const Activations& mine) const {
  if (rows.placement == TokenPlacement::kReplicated) return mine;
  std::vector<int64_t> counts;
  for (int r = 0; r < size(); ++r) counts.push_back(Part(rows.tokens, size(), r).size());
  return ConcatRows(exec, mine, counts);
}

Activations TensorGroup::ConcatRows(const Execution& exec, const Activations& mine,
                                    std::span<const int64_t> counts) const {
  if (size() == 1) return mine;
  CHECK(mine.values.contiguous());
  const Activations all = exec.TakeActivations(Total(counts), mine.values.cols(), mine.quantized());
  comm_.AllGather(mine.values.raw(), all.values.raw(), RowBytes(counts, BytesPerRow(mine.values)));
  if (mine.quantized()) {
    comm_.AllGather(mine.scales.raw(), all.scales.raw(),
                    RowBytes(counts, BytesPerRow(mine.scales)));
  }
  return all;
}

Tensor TensorGroup::Stack(const Execution& exec, const Tensor& shard) const {
  CHECK(shard.contiguous());
  const Tensor stacked = exec.Take(shard.dtype(), {size(), shard.rows(), shard.cols()});
  comm_.AllGather(shard.raw(), stacked.raw(), std::vector<int64_t>(size(), shard.bytes()));
  return stacked;
}

Tensor TensorGroup::GatherColumns(const Execution& exec, const Tensor& shard) const {
  if (size() == 1) return shard;
  const Tensor whole = exec.Take(shard.dtype(), {shard.rows(), shard.cols() * size()});
  exec.backend.MergeColumns(Stack(exec, shard), whole);
  return whole;
}

Activations TensorGroup::AllColumns(const Execution& exec, TokenPlacement placement,
                                    const Tensor& shard, bool quantized) const {
  const int64_t tokens = shard.rows();
  const int64_t cols = shard.cols() * size();
  const Activations whole = exec.TakeActivations(tokens, cols, quantized);
  if (!quantized || size() == 1 || placement == TokenPlacement::kReplicated) {
    exec.backend.QuantizeRows(GatherColumns(exec, shard), Tensor(), whole);
    return whole;
  }
  const Tensor amax = exec.Take(DType::kF32, {tokens});
  exec.backend.RowAbsMax(shard, amax);
  comm_.AllReduceMax(static_cast<float*>(amax.raw()), tokens);
  const Tensor codes = exec.Take(DType::kI8, {tokens, shard.cols()});
  exec.backend.QuantizeRows(shard, amax, {.values = codes, .scales = whole.scales});
  exec.backend.MergeColumns(Stack(exec, codes), whole.values);
  return whole;
}

Tensor TensorGroup::ToResidual(const Execution& exec, const TokenRows& rows,
                               const Tensor& shard) const {
  CHECK_EQ(shard.rows(), rows.tokens);
  if (size() == 1 || rows.placement == TokenPlacement::kReplicated) {
    return GatherColumns(exec, shard);
  }
  CHECK(shard.contiguous());
  std::vector<int64_t> counts;
  for (int r = 0; r < size(); ++r) counts.push_back(Part(rows.tokens, size(), r).size());
  const std::vector<int64_t> send = RowBytes(counts, BytesPerRow(shard));
  const std::vector<int64_t> recv(size(), send[rank()]);
  const Tensor stacked = exec.Take(shard.dtype(), {size(), rows.mine.size(), shard.cols()});
  comm_.AllToAll(shard.raw(), send, stacked.raw(), recv);
  const Tensor whole = exec.Take(shard.dtype(), {rows.mine.size(), shard.cols() * size()});
  exec.backend.MergeColumns(stacked, whole);
  return whole;
}

}  // namespace intermix
