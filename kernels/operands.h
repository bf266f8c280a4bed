// What a Backend's operations take besides tensors: rows for a linear layer, weights in a backend's
// own form, what joins the residual and its norm, and where the rows of a step sit in the paged
// cache.
// Views are values; a PackedWeight is owned by whoever asked for it. Immutable after they were
// made.
#pragma once

#include <cstdint>

#include "kernels/core/tensor.h"

namespace intermix {

// Rows that enter a linear layer.
struct Activations {
  Tensor values;  // [tokens, K] int8, or float32 where the weights are not quantised
  Tensor scales;  // [tokens] float32; empty where values are float32

  bool quantized() const { return !scales.empty(); }
  int64_t tokens() const { return values.rows(); }
  Activations Rows(int64_t begin, int64_t end) const {
    return {.values = values.Rows(begin, end),
            .scales = quantized() ? scales.Rows(begin, end) : Tensor()};
  }
};

// The root-mean-square norm in front of a layer.
struct Norm {
  Tensor weight;  // [K] float32
  float eps = 0.0f;
};

// The normalised residual, in both forms that a layer may need.
struct NormedRows {
  Tensor values;            // [tokens, K] float32
  Activations activations;  // [tokens, K]; activations.values may be `values` where it is float32

  NormedRows Rows(int64_t begin, int64_t end) const {
    return {.values = values.Rows(begin, end), .activations = activations.Rows(begin, end)};
  }
};

// The slots (token, k) of some experts as rows, ordered by expert, then token: the rows of a
// grouped layer. No slot is ever dropped.
struct ExpertOrder {
  Tensor token_of_row;  // [slots] int32: the token of each row; 0 beyond the last row
  Tensor row_of_slot;   // [slots] int32: the row of each slot; -1 where its expert is another
  Tensor row_offsets;   // [num_experts + 1] int32: where each expert's rows begin
  Tensor totals;        // [num_experts] int32, += each expert's rows, modulo 2^32; may be empty
  Activations rows;     // [slots, K]: each row's token; beyond the last row anything; may be empty
};

// What a layer adds to the residual: one row for each token, or the weighted sum of its experts'.
struct Delta {
  Tensor rows;     // [tokens, K] bfloat16; with weights [n, K]
  Tensor row_of;   // [tokens, top_k] int32: which row holds the result of slot (t, k); empty: row
                   // t * top_k + k does
  Tensor weights;  // [tokens, top_k] float32; empty: rows are added as they are
};

// Weights as one backend's kernels read them; made by Backend::Prepack, opaque to everyone else.
class PackedWeight {
 public:
  virtual ~PackedWeight() = default;
  int64_t n() const { return n_; }
  int64_t k() const { return k_; }
  // Whether the rows that enter must be int8 (or float32, under Scheme::kNone).
  bool quantized() const { return quantized_; }
  // Bytes that one pass over the weight reads.
  virtual int64_t bytes() const = 0;

 protected:
  PackedWeight(int64_t n, int64_t k, bool quantized) : n_(n), k_(k), quantized_(quantized) {}

 private:
  int64_t n_;
  int64_t k_;
  bool quantized_;
};

// One layer's paged cache. A block holds `block_size` consecutive positions of one sequence.
// Either bfloat16, or int8 codes with a scale for each position and K/V head: value = code * scale.
struct KvLayer {
  Tensor k;         // [num_blocks, num_kv_heads, block_size, head_dim] bfloat16 or int8
  Tensor v;         // [num_blocks, num_kv_heads, block_size, head_dim] likewise
  Tensor k_scales;  // [num_blocks, num_kv_heads, block_size] float32; empty where k is bfloat16
  Tensor v_scales;  // [num_blocks, num_kv_heads, block_size] float32; likewise

  bool quantized() const { return !k_scales.empty(); }
};

// Where this step's rows sit; the same for every layer. Sequences' rows are contiguous and
// ascending. No op of the step writes the cache of positions before a sequence's first row: an
// earlier step did, so attention may read it while the ops ahead still run.
struct PagedRows {
  Tensor positions;     // [tokens] int32, from 0 in each sequence
  Tensor slots;         // [tokens] int32, block * block_size + offset: where the row's K/V go
  Tensor query_starts;  // [sequences + 1] int32: the rows of sequence s
  Tensor block_tables;  // [sequences, max_blocks] int32; unused entries are never read
};

// Attention is computed in splits of this many positions, anchored at position 0; see
// PagedAttention.
inline constexpr int kAttentionSplit = 256;

// The most elements of a row that TopK finds.
inline constexpr int kMaxTopK = 64;

}  // namespace intermix
