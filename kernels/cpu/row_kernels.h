// RowKernels: the float ops of kernels/backend.h on one row (or one tile), as plain function
// pointers, one table for each instruction set. cpu_backend.cc spreads rows over threads.
// Pure functions on plain memory; bfloat16 is passed as its bits. Thread-safe.
#pragma once

#include <cstdint>

namespace intermix::cpu {

// How many rows ahead of the one that is read attention asks memory for.
inline constexpr int kRowsAhead = 64;

// One split of attention: some queries that share a K/V head, one split of positions.
struct AttendSplit {
  const float* const* q = nullptr;  // [num_queries]: where each one's [head_dim] is
  int num_queries = 0;
  int64_t head_dim = 0;
  float scale = 0.0f;
  int count = 0;  // 1 .. kAttentionSplit positions
  // [2 * count + kRowsAhead]: where the positions' keys are, then their values, then what is read
  // after this split. bfloat16 bits, or int8 where there are scales.
  const void* const* rows = nullptr;
  const float* k_scales = nullptr;  // [count]; null where the cache is bfloat16
  const float* v_scales = nullptr;  // [count]; likewise
  float* scores = nullptr;          // [num_queries, kAttentionSplit] scratch
  float* max = nullptr;             // [num_queries]; with sum and out: the split's (m, l, o)
  float* sum = nullptr;             // [num_queries]
  float* out = nullptr;             // [num_queries, head_dim]
};

// Rows of x by rows of w: y[m][n] = LaneDot(x[m], w[n]).
struct FloatTile {
  const float* x = nullptr;  // [rows, k], rows x_stride apart
  int64_t x_stride = 0;
  int64_t rows = 0;
  const void* w = nullptr;  // [cols, k], rows w_stride apart, float or bfloat16 bits
  int64_t w_stride = 0;
  int64_t cols = 0;
  int64_t k = 0;
  void* y = nullptr;  // [rows, cols], rows y_stride apart, float or bfloat16 bits
  int64_t y_stride = 0;
};

struct RowKernels {
  // max |x|; +infinity where the row holds a NaN or infinity.
  float (*abs_max_f32)(const float* x, int64_t n);
  float (*abs_max_bf16)(const uint16_t* x, int64_t n);
  // out = rne(x * factor)
  void (*quantize_f32)(const float* x, int64_t n, float factor, int8_t* out);
  void (*quantize_bf16)(const uint16_t* x, int64_t n, float factor, int8_t* out);
  void (*widen)(const uint16_t* x, int64_t n, float* out);
  void (*narrow)(const float* x, int64_t n, uint16_t* out);
  void (*rms_norm)(const float* x, const float* weight, int64_t n, float eps, float* out);
  void (*add_bf16)(const uint16_t* delta, int64_t n, float* residual);
  // One head, in place.  x [2 * half], angles [2 * half]: cos, then sin
  void (*rotate)(float* x, const float* angles, int64_t half);
  void (*silu_mul)(const float* gate, const float* up, int64_t n, uint16_t* out);
  // residual += (w[0] * rows[0] + w[1] * rows[1]) + ...
  void (*combine)(const uint16_t* const* rows, const float* weights, int num_rows, int64_t n,
                  float* residual);
  // A split of attention is: scores of all its positions, in chunks [begin, end) that ascend; then
  // softmax; then values in such chunks.
  void (*attend_scores)(const AttendSplit& split, int begin, int end);
  void (*attend_softmax)(const AttendSplit& split);
  void (*attend_values)(const AttendSplit& split, int begin, int end);
  // (m, l, o) += (next_m, next_l, next_o) as PagedAttention merges splits.  out, next_out [n]
  void (*merge_split)(float next_max, float next_sum, const float* next_out, int64_t n, float* max,
                      float* sum, float* out);
  void (*divide)(const float* x, float divisor, int64_t n, uint16_t* out);
  void (*dot_f32)(const FloatTile& tile, bool bf16_out);
  void (*dot_bf16)(const FloatTile& tile, bool bf16_out);
  // The first i >= begin for which x[i] is more than `bound` or a NaN; n where there is none.
  int64_t (*next_above)(const float* x, int64_t begin, int64_t n, float bound);
  // out = LaneExp((x - max) / temperature)
  void (*weights)(const float* x, int64_t n, float max, float temperature, float* out);
};

RowKernels ScalarRowKernels();
RowKernels Avx2RowKernels();
RowKernels Avx512RowKernels();

}  // namespace intermix::cpu
