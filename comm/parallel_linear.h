// The collectives between output-sharded linear layers (architecture.md, "Parallel layout").
//
// Each rank of a TensorGroup holds a slice of every layer's outputs (columns). Nothing is ever
// summed across ranks: rows and columns are gathered or transposed, so the bits do not depend on
// the layout. Between layers the residual's rows are either on every rank (kReplicated: decode, few
// tokens) or split over the ranks (kSharded: prefill, many tokens); both forms give the same bits.
// Outputs live in the step's workspace. Engine thread only.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "comm/communicator.h"
#include "comm/execution.h"
#include "comm/sharding.h"
#include "kernels/backend.h"

namespace intermix {

enum class TokenPlacement : uint8_t { kReplicated, kSharded };

// Where a step's token rows are, for one rank.
struct TokenRows {
  TokenPlacement placement = TokenPlacement::kReplicated;
  std::vector<int64_t> group_tokens;  // of each dp group in this step
  int64_t tokens = 0;                 // of this rank's dp group
  Slice mine;                         // the rows of the residual that this rank holds
};

class TensorGroup {
 public:
  // `comm` outlives the group.
  explicit TensorGroup(Communicator& comm) : comm_(comm) {}

  int size() const { return comm_.size(); }
  int rank() const { return comm_.rank(); }

  // Where the rows of a step are, given the tokens of each dp group and this rank's.
  TokenRows Place(const std::vector<int64_t>& group_tokens, int dp_rank,
                  TokenPlacement placement) const;

  // All tokens' rows from the residual's rows: the input of a column-sharded layer.
  //   mine     [rows.mine.size(), K]
  //   returns  [rows.tokens, K]; `mine` itself where rows are replicated
  Activations AllTokens(const Execution& exec, const TokenRows& rows,
                        const Activations& mine) const;

  // Rows of the other ranks appended in rank order.
  //   mine    [counts[rank], K]
  //   counts  [size] rows of each rank
  Activations ConcatRows(const Execution& exec, const Activations& mine,
                         std::span<const int64_t> counts) const;

  // The input of a layer that needs whole rows, from column shards (attention heads, SiLU * up).
  // Quantised with the amax of the whole row. Few rows travel as bfloat16, many as int8 after an
  // all-reduce of amax; the bits are the same.
  //   shard    [tokens, K / size] bfloat16
  //   returns  [tokens, K]
  Activations AllColumns(const Execution& exec, TokenPlacement placement, const Tensor& shard,
                         bool quantized) const;

  // A layer's outputs on their way back to the residual: whole rows of the tokens that this rank
  // holds, from column shards of all tokens.
  //   shard    [rows.tokens, N / size] any dtype
  //   returns  [rows.mine.size(), N]
  Tensor ToResidual(const Execution& exec, const TokenRows& rows, const Tensor& shard) const;

 private:
  // out: [size, rows, cols], each rank's `shard` [rows, cols] in rank order.
  Tensor Stack(const Execution& exec, const Tensor& shard) const;
  Tensor GatherColumns(const Execution& exec, const Tensor& shard) const;

  Communicator& comm_;
};

}  // namespace intermix
