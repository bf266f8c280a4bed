// Backend: the coarse operations of a forward step on one device.
//
// Every op writes into outputs that the caller provides, allocates nothing that grows with the
// step, and is bit-identical on every CPU backend for the same input row, whatever the other rows
// are (numerics.md, "Invariance"). ReferenceBackend is the specification in code. On CUDA the
// integer accumulators are equal too; float results follow the same rules within that backend.
//
// Ops are ordered on one stream and called from one thread, the rank's engine thread. Shapes are
// the caller's duty (CHECKed). `tokens` may be 0 everywhere. A step's PagedRows, and weights that
// Prepack does not make, are written by CopyToDevice, not by other ops: a kernel may read them
// while the op before it still runs.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string_view>

#include "absl/status/statusor.h"
#include "kernels/core/buffer.h"
#include "kernels/core/tensor.h"
#include "kernels/operands.h"
#include "kernels/quant/weight.h"

namespace intermix {

class Backend {
 public:
  virtual ~Backend() = default;

  virtual std::string_view name() const = 0;  // "reference", "cpu avx512", ...
  virtual Device device() const = 0;

  // Device memory, zeroed, 64-byte aligned.
  virtual Buffer Allocate(size_t bytes) = 0;

  // Bytes of device memory that are free now; the device may be shared.
  virtual int64_t free_bytes() const = 0;

  // Host memory, zeroed, that copies from the device reach fastest. Freed before the backend.
  virtual Buffer AllocateHost(size_t bytes) = 0;

  // Host memory to a contiguous tensor of the device. The host memory may be reused on return.
  virtual void CopyToDevice(const void* host, Tensor tensor) = 0;

  // A contiguous tensor of the device to host memory, after every op before it is done.
  virtual void CopyToHost(const Tensor& tensor, void* host) = 0;

  // The same without waiting: `host` is of AllocateHost, and holds the tensor after Synchronize.
  virtual void StartCopyToHost(const Tensor& tensor, void* host) = 0;

  // Returns when every op before it is done.
  virtual void Synchronize() = 0;

  // Stacks `parts` along N (same K; formats may differ, all quantised or none) into one weight.
  //   INVALID_ARGUMENT for a form that this backend cannot run.
  virtual absl::StatusOr<std::unique_ptr<PackedWeight>> Prepack(
      std::span<const QuantizedWeight> parts) = 0;

  // y = x . w^T (numerics.md, "GEMM").
  //   x  [tokens, K]
  //   y  [tokens, N] float32, bfloat16 (rounded after dequantising), or int32 (the accumulators;
  //      integer schemes only). Rows may be strided.
  // Scheme::kFloat: y = (sum over groups j ascending of fma(float(acc_j), s[n, j], sum)) * a[m].
  // Scheme::kNone: y = LaneDot(x[m], w[n]).
  virtual void Gemm(const Activations& x, const PackedWeight& w, Tensor y) = 0;

  // Gemm of rows [row_offsets[e], row_offsets[e + 1]) with weights[e], for every expert e. Rows
  // from row_offsets[experts] on belong to nobody; their outputs are not written.
  //   row_offsets  [experts + 1] int32, ascending from 0, at most tokens
  virtual void GroupedGemm(const Activations& x, std::span<const PackedWeight* const> weights,
                           const Tensor& row_offsets, Tensor y) = 0;

  // The two weights [I, K] of a gated layer as one weight of N = 2 * I, for GatedGemm alone.
  //   INVALID_ARGUMENT as Prepack.
  virtual absl::StatusOr<std::unique_ptr<PackedWeight>> PrepackGated(const QuantizedWeight& gate,
                                                                     const QuantizedWeight& up) = 0;

  // hidden = bfloat16(LaneSilu(g) * u), where g and u are what GroupedGemm makes of x in float32
  // with an expert's gate and with its up weight.
  //   weights      of PrepackGated
  //   row_offsets  as GroupedGemm has them; empty: the only expert has all rows
  //   hidden       [tokens, I] bfloat16; rows that belong to nobody hold anything
  virtual void GatedGemm(const Activations& x, std::span<const PackedWeight* const> weights,
                         const Tensor& row_offsets, Tensor hidden) = 0;

  // max_k |x[m, k]|; +infinity for a row that holds a NaN or infinity.
  //   x     [tokens, K] bfloat16 or float32
  //   amax  [tokens] float32
  virtual void RowAbsMax(const Tensor& x, Tensor amax) = 0;

  // Per-token symmetric int8 (numerics.md, "Activations"), with the amax of the full row:
  // scale = amax / 127, code = rne(x * (127 / amax)).
  // amax < 2^-100 gives scale 0 and zero codes; an infinite amax gives scale NaN and zero codes.
  // Where out.values is float32, the row is only widened and amax is not read.
  //   x     [tokens, K] bfloat16 or float32
  //   amax  [tokens] float32; empty: RowAbsMax of x itself
  //   out   [tokens, K]
  virtual void QuantizeRows(const Tensor& x, const Tensor& amax, const Activations& out) = 0;

  // out.values = (x * (1 / sqrt(LaneDot(x, x) / K + norm.eps))) * norm.weight, and
  // out.activations = QuantizeRows of that with its own amax.
  //   x  [tokens, K] float32
  virtual void RmsNorm(const Tensor& x, const Norm& norm, const NormedRows& out) = 0;

  // residual += delta, then RmsNorm of the residual. Without delta.weights
  //   residual[t] += rows[t];
  // with them, slots ascending and without fma,
  //   residual[t] += ((weights[t,0] * row(t,0)) + weights[t,1] * row(t,1)) + ...
  //   residual  [tokens, K] float32
  virtual void AddRmsNorm(const Delta& delta, Tensor residual, const Norm& norm,
                          const NormedRows& out) = 0;

  // out[i] = float(table[ids[i]]).
  //   ids    [tokens] int32, in range
  //   table  [vocabulary, K] float32 or bfloat16
  //   out    [tokens, K] float32
  virtual void EmbedRows(const Tensor& ids, const Tensor& table, Tensor out) = 0;

  // Fills a contiguous tensor with zero bytes.
  virtual void Zero(Tensor tensor) = 0;

  // dst[i] = src[index[i]], or zeros where index[i] is -1.
  //   src    [rows, K] any dtype, or [rows]
  //   index  [n] int32, -1 or a row of src
  //   dst    [n, K], or [n]; rows may be strided
  virtual void GatherRows(const Tensor& src, const Tensor& index, Tensor dst) = 0;

  // out[t, s * K + k] = shards[s, t, k]: puts column shards that arrived one after the other side
  // by side. Any dtype.
  //   shards  [num_shards, tokens, K]
  //   out     [tokens, num_shards * K]
  virtual void MergeColumns(const Tensor& shards, Tensor out) = 0;

  // Rotary embedding (rotate-half form) on q and k, then k and v go to the cache: rounded to
  // bfloat16, or each head's row as QuantizeRows has it, with the head's own amax.
  //   for i < head_dim / 2, with c, s = rope row of the token's position:
  //     x'[i] = fma(x[i], c[i], -(x[i + half] * s[i]))
  //     x'[i + half] = fma(x[i + half], c[i], x[i] * s[i])
  //   q      [tokens, num_heads * head_dim] float32, rotated in place
  //   k, v   [tokens, num_kv_heads * head_dim] float32; k is rotated in place
  //   rope   [max_positions, head_dim] float32: cos in the first half of a row, sin in the second
  virtual void RopeAndStoreKv(Tensor q, Tensor k, const Tensor& v, const Tensor& rope,
                              const PagedRows& rows, const KvLayer& cache) = 0;

  // Causal attention of each row over positions 0 .. its own, read back from the cache.
  // Head h reads K/V head (first_head + h) / (heads per K/V head) - first K/V head, given as
  // kv_head_of[h]. For one row and head, with splits of kAttentionSplit positions:
  //   score[t] = LaneDot(q, k[t]) * scale;  m = max;  p[t] = LaneExp(score[t] - m);
  //   l = 16-lane sum of p over the split (lane t % 16);
  //   o[d] = sum over t ascending of fma(p[t], v[t][d], o[d])
  // and the splits are merged in ascending order, starting from the first one's (M, L, O):
  //   M' = max(M, m);  a = LaneExp(M - M');  b = LaneExp(m - M');
  //   L = fma(L, a, l * b);  O[d] = fma(O[d], a, o[d] * b)
  // out = bfloat16(O[d] / L).
  // Of a quantised cache, k and v are the codes as float32, and the scales join score and weight:
  //   score[t] = (LaneDot(q, k[t]) * k_scale[t]) * scale
  //   o[d] = sum over t ascending of fma(p[t] * v_scale[t], v[t][d], o[d])
  // Positions before a sequence's first row are of an earlier step (PagedRows).
  //   q           [tokens, num_heads * head_dim] float32, after RopeAndStoreKv
  //   kv_head_of  [num_heads], on the host
  //   out         [tokens, num_heads * head_dim] bfloat16
  virtual void PagedAttention(const Tensor& q, const PagedRows& rows, const KvLayer& cache,
                              std::span<const int32_t> kv_head_of, float scale, Tensor out) = 0;

  // logit[e] = LaneDot(x, gate[e]); the top_k largest, ties to the lowest expert, in that order;
  // weight = LaneExp(logit - max) / (sum over the chosen, in order).
  // A row whose logits hold a NaN chooses experts 0 .. top_k - 1 with weight NaN.
  //   x        [tokens, hidden] float32
  //   gate     [experts, hidden] float32
  //   experts  [tokens, top_k] int32
  //   weights  [tokens, top_k] float32
  virtual void Route(const Tensor& x, const Tensor& gate, Tensor experts, Tensor weights) = 0;

  // Orders the slots (token, k) of some experts by expert, then token, and brings their tokens'
  // rows into that order.
  //   experts       [tokens, top_k] int32: each slot's expert
  //   first_expert  the first of the out.row_offsets.rows() - 1 experts that are ordered
  //   tokens        [tokens, K]; empty where out.rows is
  virtual void SortByExpert(const Tensor& experts, int32_t first_expert, const Activations& tokens,
                            const ExpertOrder& out) = 0;

  // totals[e] += row_offsets[e + 1] - row_offsets[e], modulo 2^32: how busy each expert has been.
  //   row_offsets  [experts + 1] int32
  //   totals       [experts] int32
  virtual void AddRowCounts(const Tensor& row_offsets, Tensor totals) = 0;

  // The first k of each row's elements: NaNs, then numbers from the largest to the smallest; equal
  // ones (two NaNs, 0 and -0) by column. Beyond n elements: -infinity, column -1.
  //   x                [rows, n] float32; rows may be strided
  //   values, columns  [rows, k] float32, int32; k at most kMaxTopK
  virtual void TopK(const Tensor& x, Tensor values, Tensor columns) = 0;
};

}  // namespace intermix
